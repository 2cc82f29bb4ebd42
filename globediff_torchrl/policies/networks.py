"""Building blocks of actor and critic: input normalisation, a multi-layer perceptron shared by the agents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from tensordict import NestedKey, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, dispatch, set_skip_existing
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, check_sizes, unknown

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
INPUT_NORMS = ("running", "layer", "none")
ROUNDING = torch.finfo(torch.float32).eps  # a deviation below this share of the mean is rounding of the input
TINY = 1e-24  # a variance below it counts as none where the mean is 0, and says nothing of the unit
STEP = "a step of the environment that it was made for"


class RunningNorm(nn.Module):
    """Standardises each number by the mean and variance of all that :meth:`update` has seen.

    The statistics change only when :meth:`update` is called (once an iteration, after the policy update), never in
    ``forward``: the log-probabilities of a rollout and of the first epoch on it are then those of one and the same
    function, and the PPO ratio starts at exactly 1.

    :func:`update_input_statistics` does it for all those of an actor or a critic.

    Args:
        size: number of features ``d``.
        clip: bound of the normalised value, in standard deviations; none before the first :meth:`update`.

    Shapes:
        ``forward``: ``[*B, d] -> [*B, d]``.
    """

    def __init__(self, size: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        # in double precision; m2 is the sum of squared distances from the mean, not of squares: of a large constant the
        # difference of two of those is rounding, and no zero
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sum", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def update(self, value: Tensor) -> None:
        """Adds ``value [*B, d]`` to the statistics (Chan et al. 1983). Constant features keep the scale 1, others
        get that of their spread in whichever unit they are."""
        value = value.reshape(-1, value.shape[-1]).double()
        rows, total = value.shape[0], value.sum(0)
        before, mean = self.sum / self.count.clamp(min=1), total / max(rows, 1)
        between = (mean - before).square() * (self.count * rows / (self.count + rows).clamp(min=1))
        self.m2 += (value - mean).square_().sum(0) + between
        self.count += rows
        self.sum += total
        seen = self.count.clamp(min=1)
        variance = self.m2 / seen
        self.mean.copy_(self.sum / seen)
        least = (ROUNDING * self.sum / seen).square().clamp(min=TINY)
        self.scale.copy_(torch.where(variance > least, variance.maximum(least).rsqrt(), 1.0))

    def forward(self, value: Tensor) -> Tensor:
        # without statistics the numbers are in units of their own; a branch on the count would wait for a GPU
        bound = torch.where(self.count > 0, self.clip, math.inf)
        return ((value - self.mean) * self.scale).clamp_min_(-bound).clamp_max_(bound)


def join(features: Sequence[Tensor], agents: int) -> Tensor:
    """Concatenates ``[*B, n, d]`` and team-wide ``[*B, d]`` features, the latter repeated for each agent."""
    ndim = max(feature.ndim for feature in features)
    rows = []
    for feature in features:
        if feature.ndim < ndim:
            feature = feature.unsqueeze(-2).expand(*feature.shape[:-1], agents, feature.shape[-1])
        rows.append(feature.to(torch.float32))
    return torch.cat(rows, -1)


def read(tensordict: TensorDictBase, keys: Sequence[NestedKey], asker: str, expected: str) -> list[Tensor]:
    """The entries ``keys``; a UserError that begins with ``asker`` and says what was ``expected`` if one is missing."""
    values = [tensordict.get(key, None) for key in keys]
    for key, value in zip(keys, values):
        if value is None:
            raise UserError(f"{asker} {key}, which the tensordict does not hold; expected {expected}.")
    return values


def running_norms(module: nn.Module) -> list[tuple[TensorDictModule, RunningNorm]]:
    """Each :class:`RunningNorm` in the trunk of a network, with the tensordict module that reads its inputs."""
    parts = [part for part in module.modules() if isinstance(part, TensorDictModule) and hasattr(part.module, "trunk")]
    return [(part, layer) for part in parts for layer in part.module.trunk if isinstance(layer, RunningNorm)]


def update_input_statistics(module: nn.Module, batch: TensorDictBase) -> None:
    """Adds a batch to the running statistics by which an actor or a critic standardises its inputs.

    What ``make_actor`` and ``make_critic`` build with ``input_norm="running"`` never does so by itself: in a training
    loop of your own call this on a first rollout, before anything is learnt, and after each update; ``make_trainer``'s
    loop does. Does nothing for a module without a :class:`RunningNorm`.

    Args:
        module: of :func:`make_actor` or :func:`make_critic`, or what holds several of them, such as ``MAPPOLoss``. In a
            functional loss they are those that its networks are called with.
        batch: ``[*B]`` as the policy left it: holds every key that the module reads, the actor's view included.

    Raises:
        UserError: a key is missing; a loss that holds several copies of a network as one.

    Example:
        >>> with torch.no_grad():
        ...     batch = env.rollout(60, policy, break_when_any_done=False)
        >>> update_input_statistics(policy, batch)
    """
    for part, norm in running_norms(module):
        expected = f"a rollout as the policy left it, with {part.in_keys}"
        values = read(batch, part.in_keys, "the input statistics need", expected)
        norm.update(join(values, part.module.agents))
    for network, parameters in _functional_networks(module):
        with parameters.to_module(network):
            update_input_statistics(network, batch)


def _functional_networks(module: nn.Module) -> Iterator[tuple[nn.Module, TensorDictParams]]:
    """The networks of TorchRL's functional losses within a module, which are none of its submodules, and what they are
    called with: of a loss that was moved or loaded this is no longer the network's own."""
    for loss in (part for part in module.modules() if isinstance(part, LossModule)):
        for name, network in vars(loss).items():
            parameters = loss._modules.get(f"{name}_params")
            if parameters is None or not running_norms(network):
                continue
            if parameters.batch_dims:
                raise UserError(
                    f"update_input_statistics expects one copy of a network, got {name} of {type(loss).__name__} with "
                    f"{list(parameters.shape)} of them: call it with the network itself, before the loss is made."
                )
            yield network, parameters


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights of the given gain and zero biases, as in MAPPO's reference implementation."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def make_trunk(
    in_features: int,
    hidden_sizes: Sequence[int],
    *,
    activation: str = "tanh",
    layer_norm: bool = False,
    input_norm: str = "running",
) -> nn.Sequential:
    """Input normalisation, then ``Linear - activation [- LayerNorm]`` for each hidden size.

    ``activation="relu", layer_norm=True, input_norm="layer"`` is MAPPO's reference network (Yu et al. 2022); the
    default standardises each input by its running statistics, which keeps what LayerNorm over a short vector of
    unlike quantities throws away: their absolute size.
    """
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    if input_norm not in INPUT_NORMS:
        raise unknown("input_norm", input_norm, INPUT_NORMS)
    check_sizes("hidden_sizes", hidden_sizes)
    gain = {"tanh": 5 / 3, "relu": math.sqrt(2)}.get(activation, 1.0)
    layers: list[nn.Module] = []
    if input_norm == "running":
        layers.append(RunningNorm(in_features))
    elif input_norm == "layer":
        layers.append(nn.LayerNorm(in_features))
    for size in hidden_sizes:
        layers += [orthogonal(nn.Linear(in_features, size), gain), ACTIVATIONS[activation]()]
        if layer_norm:
            layers.append(nn.LayerNorm(size))
        in_features = size
    return nn.Sequential(*layers)


class Network(nn.Module, ABC):
    """A trunk over the joined features of the agents, and a head on it: ``decode(encode(*features))``.

    Args:
        agents: number of agents ``n``.
        trunk: see :func:`make_trunk`.
    """

    def __init__(self, agents: int, trunk: nn.Sequential) -> None:
        super().__init__()
        self.agents, self.trunk = agents, trunk

    def encode(self, *features: Tensor) -> Tensor:
        """``[*B, n, d]`` and ``[*B, d]`` features to ``[*B, n, f]``, or ``[*B, f]`` where none has an agent dim."""
        return self.trunk(join(features, self.agents))

    @abstractmethod
    def decode(self, encoded: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the network answers from ``[*B, n, f]``."""

    def forward(self, *features: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.decode(self.encode(*features))


class Head(TensorDictModule):
    """A TensorDictModule whose network returns tensors, and nothing to be converted.

    TensorDictModule hands each output to ``TensorDict.from_any``, which looks through the import path for pandas: a
    noticeable part of a small network's pass. Reads ``in_keys``, writes ``out_keys``, in place; of tensors it gives
    tensors.

    Raises:
        UserError: a key is missing.
    """

    @dispatch(auto_batch_size=False)
    @set_skip_existing(None)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        outputs = self.module(*read(tensordict, self.in_keys, "the network reads", STEP))
        for key, output in zip(self.out_keys, outputs if isinstance(outputs, tuple) else (outputs,)):
            tensordict.set(key, output)
        return tensordict


def feature_size(env: EnvBase, key: NestedKey, reader: str) -> int:
    """The last dim of what the environment gives under ``key``; ``reader`` is to read it, for the error message.

    Raises:
        UserError: it gives nothing there, or more than one dim of features.
    """
    try:
        shape = env.observation_spec[key].shape
    except KeyError as error:
        fix = f"for {keys.AUX_OBSERVATION} pass aux= to make_env"
        if key in keys.INFERENCES:
            fix = "what a state model writes is read by an actor alone, make_actor(env, state_model, reads=...)"
        raise UserError(
            f"the {reader} is to read {key}, which the environment does not give; it has "
            f"{[str(k) for k in env.observation_spec.keys(True, True)]}: {fix}."
        ) from error
    expected = ["*B", "d"] if isinstance(key, str) else ["*B", "n", "d"]
    if len(shape) - len(env.batch_size) != len(expected) - 1:
        raise UserError(
            f"the {reader} is to read {key} of shape [{', '.join(expected)}] where *B is {list(env.batch_size)}, got "
            f"{list(shape)}: flatten it (FlattenObservation)."
        )
    return shape[-1]
