"""The decentralised actor: one network, shared by the agents, over what an agent may know at execution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
)
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, TensorSpec, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import MaskedCategorical, TanhNormal

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.policies.ego_view import READS, EgoView
from globediff_torchrl.policies.networks import Network, feature_size, make_trunk, orthogonal
from globediff_torchrl.policies.recurrent import make_head
from globediff_torchrl.task import ONE_COPY, Task, task_of

LOG_SCALE = (-5.0, 2.0)  # of the standard deviation of a continuous action


class _CategoricalHead(Network):
    """Features of the agents to logits ``[*B, n, A]``."""

    def __init__(self, agents: int, trunk: nn.Sequential, features: int, actions: int, gain: float) -> None:
        super().__init__(agents, trunk)
        self.head = orthogonal(nn.Linear(features, actions), gain)

    def decode(self, encoded: Tensor) -> Tensor:
        return self.head(encoded)


class _GaussianHead(Network):
    """Features of the agents to location and scale ``[*B, n, d_a]``; the scale does not depend on the state."""

    def __init__(
        self, agents: int, trunk: nn.Sequential, features: int, actions: int, gain: float, scale: float
    ) -> None:
        super().__init__(agents, trunk)
        self.head = orthogonal(nn.Linear(features, actions), gain)
        self.log_scale = nn.Parameter(torch.full((actions,), scale).log())

    def decode(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.head(encoded)
        return loc, self.log_scale.clamp(*LOG_SCALE).exp().expand_as(loc)


def make_actor(
    env: EnvBase,
    state_model: TensorDictModuleBase | None = None,
    *,
    inputs: Sequence[NestedKey] = (keys.OBSERVATION, keys.AGENT_ID, keys.TIME),
    reads: str | None = "auto",
    view: str = "auto",
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str = "tanh",
    layer_norm: bool = False,
    input_norm: str = "running",
    recurrent: str = "none",
    gain: float = 0.01,
    scale_init: float = 1.5,
) -> ProbabilisticTensorDictSequential:
    """The actor pi(a_i | o_i, view of s_hat, agent id, time), to be put behind a state model.

    Reads:
        the keys of ``inputs``, what ``reads`` names of the inference (see :class:`EgoView`), and
        ``("agents", "action_mask")`` where actions are discrete and the environment gives a mask. Never ``"state"``.

    Writes:
        ``("agents", "action")`` and ``("agents", "action_log_prob") [*B, n]``; tanh-normal over the bounds of the
        action specification, or a categorical that cannot draw an illegal action, but any of an agent that has no legal
        one. The parameters of the distribution (``"loc"`` and ``"scale"``, or ``"logits"``) stand beside them.

    Args:
        env: gives the shapes, the action specification, the layout of the state (``env.task``) and the device; of
            several copies (TorchRL's SerialEnv) pass one.
        state_model: the model in front; decides ``reads="auto"``. Without one the default :class:`GlobeDiff`
            is assumed.
        inputs: what the actor reads besides the inference.
        reads: ``"sample" | "samples" | "mean" | "blend" | "mean_sample" | "mean_spread"``, ``None`` for an actor
            without an inferred state, or ``"auto"``: ``"blend"`` where the state model gives it, else ``"sample"``.
        view: ``"relative" | "absolute" | "auto"``, see :class:`EgoView`.
        hidden_sizes, activation, layer_norm: of the network; activations are tanh, relu, gelu and silu.
        input_norm: ``"running"`` standardises each input by running statistics, which change only where
            :func:`~globediff_torchrl.policies.update_input_statistics` is called: ``make_trainer``'s loop does so, one
            of your own must, or the inputs come as they are. ``"layer"``: a LayerNorm over the inputs; ``"none"``:
            nothing.
        recurrent: ``"none"``, or ``"gru"``: a GRU and a LayerNorm behind the hidden layers, as wide as the last of
            them. Its hidden state is ``("agents", "actor_hidden") [*B, n, h]``, which the environment carries from step
            to step: see :func:`~globediff_torchrl.policies.recurrent.add_memory`.
        gain: orthogonal gain of the last layer (.01 in MAPPO's reference: the first policy is near uniform).
        scale_init: first standard deviation of a continuous action before the tanh. With 1.5 a third of the first
            actions lie in the outer tenths of the bounds (.85 would be nearly uniform): agents that move little in a
            step explore far too little with less.

    Raises:
        UserError: an environment without a task, or whose keys or actions do not fit; an unknown name; a number out of
            range; nothing to read.

    Example:
        >>> env = make_env("vmas/hunt", num_envs=4)
        >>> policy = TensorDictSequential(GlobeDiff.from_env(env), make_actor(env))
        >>> policy(env.reset())["agents", "action"].shape
        torch.Size([4, 2, 2])
    """
    task = task_of(env, "make_actor", ONE_COPY)
    modules: list[TensorDictModuleBase] = []
    in_keys = [tuple(key) if not isinstance(key, str) else key for key in inputs]
    size = sum(feature_size(env, key, "actor") for key in in_keys)
    ego = _make_view(env, task, state_model, reads, view)
    if ego is not None:
        modules.append(ego)
        in_keys.append(keys.VIEW)
        size += ego.size
    if not in_keys:
        raise UserError(
            f"make_actor expects something to read, got inputs={inputs!r} and reads={reads!r}: pass e.g. "
            f"inputs=[{keys.AGENT_ID}]."
        )
    if all(isinstance(key, str) for key in in_keys):
        raise UserError(
            f"make_actor expects at least one input of the agents' own, [*B, n, d], got what the team shares, "
            f"{in_keys}: add e.g. {keys.AGENT_ID}."
        )
    trunk = make_trunk(size, hidden_sizes, activation=activation, layer_norm=layer_norm, input_norm=input_norm)
    features = hidden_sizes[-1] if len(hidden_sizes) else size
    if ego is not None and hidden_sizes:
        # the mean speaks first: a sample beside it is noise to an untrained network, and is let in as it proves useful
        first = next(layer for layer in trunk if isinstance(layer, nn.Linear))
        first.weight.data[:, size - ego.extra :] = 0.0
    agents, spec = task.n_agents, env.full_action_spec[keys.ACTION]
    if type(spec) is Categorical:  # torchrl's Binary is a kind of it, of several numbers
        head = _CategoricalHead(agents, trunk, features, spec.space.n, gain)
        out_keys, distribution = [keys.LOGITS], _categorical(env)
    else:
        _check_bounded(spec)
        _check_scale(scale_init)
        head = _GaussianHead(agents, trunk, features, spec.shape[-1], gain, scale_init)
        out_keys, distribution = [keys.LOC, keys.SCALE], _tanh_normal(spec)
    modules.append(make_head(head, features, recurrent, in_keys, out_keys, keys.ACTOR_HIDDEN))
    return ProbabilisticTensorDictSequential(*modules, distribution).to(env.device)


def _make_view(
    env: EnvBase, task: Task, state_model: TensorDictModuleBase | None, reads: str | None, view: str
) -> EgoView | None:
    """What the actor reads of the inference; None where it reads nothing of it."""
    if reads == "auto":
        out_keys = [keys.INFERRED_BLEND] if state_model is None else state_model.out_keys
        reads = "blend" if keys.INFERRED_BLEND in out_keys else "sample"
    if reads is None:
        return None
    _check_reads(reads, state_model)
    return EgoView(
        task.n_agents,
        feature_size(env, task.target_key, "actor"),
        task.inferred_layout,
        reads=reads,
        view=view,
        hypotheses=_hypotheses(state_model),
    )


def _hypotheses(state_model: TensorDictModuleBase | None) -> int:
    """How many it writes; in a sequence, its last module that does."""
    found = [1]
    for module in [] if state_model is None else state_model.modules():
        if keys.HYPOTHESES in getattr(module, "out_keys", ()):
            found.append(getattr(module, "num_samples", found[-1]))
    return found[-1]


def _check_reads(reads: str, state_model: TensorDictModuleBase | None) -> None:
    if reads not in READS:
        raise unknown("reads", reads, READS)
    if state_model is None and keys.HYPOTHESES in READS[reads]:
        raise UserError(
            f"reads={reads} needs {keys.HYPOTHESES}, which the default GlobeDiff does not write; expected a state "
            f"model with num_samples above 1, got none: pass it, make_actor(env, state_model, reads={reads!r})."
        )
    missing = [] if state_model is None else [key for key in READS[reads] if key not in state_model.out_keys]
    if missing:
        raise UserError(
            f"reads={reads} needs {missing[0]}, which the out_keys of this {type(state_model).__name__} do not name "
            f"(it writes {state_model.out_keys}): of GlobeDiff hypotheses come from num_samples above 1 (and "
            "sample=True), a mean from center=regression; a model of your own appends what it writes to self.out_keys."
        )


class LegalCategorical(MaskedCategorical):
    """A categorical over the actions whose mask is True; of an agent for which nothing is legal, over all.

    As random play has it, and TorchRL's PettingZooWrapper of the dead: torch's own would divide 0 by 0 there.
    """

    def __init__(self, logits: Tensor, *, mask: Tensor) -> None:
        super().__init__(logits, mask=mask | ~mask.any(-1, keepdim=True))


def _categorical(env: EnvBase) -> ProbabilisticTensorDictModule:
    masked = keys.ACTION_MASK in env.observation_spec.keys(True, True)
    return ProbabilisticTensorDictModule(
        in_keys={"logits": keys.LOGITS, "mask": keys.ACTION_MASK} if masked else {"logits": keys.LOGITS},
        out_keys=[keys.ACTION],
        distribution_class=LegalCategorical if masked else torch.distributions.Categorical,
        return_log_prob=True,
        log_prob_key=keys.ACTION_LOG_PROB,
    )


def _tanh_normal(spec) -> ProbabilisticTensorDictModule:
    low, high = (_team_bound(bound) for bound in (spec.space.low, spec.space.high))
    return ProbabilisticTensorDictModule(
        in_keys={"loc": keys.LOC, "scale": keys.SCALE},
        out_keys=[keys.ACTION],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": low, "high": high, "tanh_loc": False, "safe_tanh": True},
        return_log_prob=True,
        log_prob_key=keys.ACTION_LOG_PROB,
    )


def _check_bounded(spec: TensorSpec) -> None:
    bounded = isinstance(spec, Bounded)
    if bounded and spec.space.low.isfinite().all() and spec.space.high.isfinite().all():
        return
    fix = "of one-hot actions pass categorical_actions=True to the environment's wrapper"
    if bounded or isinstance(spec, Unbounded):
        fix = "give the action spec the bounds that actions have, Bounded(low, high, shape) with finite ones"
    infinite = " with infinite bounds" if bounded else ""
    raise UserError(
        f"make_actor expects actions that are bounded or categorical, got {type(spec).__name__} "
        f"{list(spec.shape)}{infinite}: {fix}."
    )


def _check_scale(scale: float) -> None:
    """Refuses a first deviation beyond the bounds of the trained one: no gradient would reach it, and it would stay."""
    low, high = (math.exp(bound) for bound in LOG_SCALE)
    if isinstance(scale, (bool, str)) or not low <= scale <= high:
        raise UserError(f"scale_init must be a number from {low:.2g} to {high:.2g}, got {scale!r}: 1.5 is the default.")


def _team_bound(bound: Tensor) -> Tensor:
    """A bound of the actions ``[*B, n, d_a]``, the same in all environments, as ``[n, d_a]``.

    ``[d_a]`` where it is the same for all agents too, as it nearly always is: that keeps the distribution cheap.
    """
    agents = bound.reshape(-1, *bound.shape[-2:])[0]
    return agents[0] if (agents == agents[0]).all() else agents
