"""Memory for actor and critic: a GRU over time, one hidden state an agent, agents folded into the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase, set_skip_existing
from torch import Tensor, nn
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, TensorDictPrimer
from torchrl.modules.tensordict_module.rnn import recurrent_mode

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.policies.networks import STEP, Head, Network, read
from globediff_torchrl.task import task_of

RECURRENT = ("none", "gru")


class Memory(nn.Module):
    """A GRU layer with a LayerNorm behind it, as MAPPO's reference has it; orthogonal weights, zero biases.

    Rows are anything: environments, or environments times agents. The hidden state is the GRU's own, before the norm.

    Args:
        features: size of the input ``f``.
        size: size of the hidden state and of the output ``h``.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.gru = nn.GRU(features, size)
        self.norm = nn.LayerNorm(size)
        for name, parameter in self.gru.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter)

    def step(self, value: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``[*B, f]`` and the hidden state before it ``[*B, h]`` to output and hidden state ``[*B, h]``."""
        after, _ = self.gru(value.reshape(1, -1, value.shape[-1]), hidden.reshape(1, -1, self.size))
        after = after.reshape(hidden.shape)
        return self.norm(after), after

    def sequence(self, value: Tensor, first: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """All steps of ``[T, *B, f]``.

        Args:
            value: the inputs.
            first: hidden state before the first step ``[*B, h]``.
            starts: True at the first step of an episode ``[T, *B, 1]``; the memory is emptied before it.

        Returns:
            output and hidden state after each step, ``[T, *B, h]`` both.
        """
        steps, rows = len(value), value.shape[1:-1].numel()
        value, hidden = value.reshape(steps, rows, -1), first.reshape(1, rows, self.size)
        starts = starts.reshape(steps, rows, 1)
        # pieces within which no row starts an episode: one call of the fused layer each
        cuts = [step for step, any_row in enumerate(starts.flatten(1).any(1).tolist()) if any_row or step == 0]
        pieces = []
        for begin, end in zip(cuts, [*cuts[1:], steps]):
            piece, hidden = self.gru(value[begin:end], hidden.masked_fill(starts[begin], 0.0))
            pieces.append(piece)
        after = torch.cat(pieces).reshape(steps, *first.shape)
        return self.norm(after), after


class RecurrentHead(TensorDictModuleBase):
    """A :class:`Network` with a :class:`Memory` between its trunk and its head.

    Reads:
        ``in_keys`` of the network; the hidden state before the step, under ``hidden_key`` ``[*B, n, h]`` (``[*B, h]``
        where nothing that the network reads differs between agents); ``"step_count"``, 0 at the first step of an
        episode.

    Writes:
        ``out_keys``, and the hidden state after the step under ``("next", hidden_key)``.

    Step by step (TorchRL's default mode) each element of the tensordict is a step of its own and starts from its own
    hidden state: during a rollout, and on a stored one. Within ``set_recurrent_mode(True)``, as in TorchRL's losses,
    the last batch dimension is time: the first step's hidden state is read, those of the others are computed, and the
    memory is emptied where an episode starts.

    Raises:
        UserError: there is no hidden state in the tensordict: see :func:`add_memory`; or the steps of a sequence do not
            follow one another, by their ``"step_count"``.
    """

    def __init__(
        self,
        network: Network,
        memory: Memory,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey],
        hidden_key: NestedKey,
    ) -> None:
        super().__init__()
        self.body = Head(network, in_keys=in_keys, out_keys=out_keys)
        self.memory, self.hidden_key = memory, hidden_key
        self.in_keys = [*in_keys, hidden_key, keys.STEP_COUNT]
        self.out_keys = [*out_keys, unravel_key(("next", hidden_key))]

    @set_skip_existing(None)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        network = self.body.module
        value = network.encode(*read(tensordict, self.body.in_keys, "the network reads", STEP))
        hidden = tensordict.get(self.hidden_key, None)
        if hidden is None:
            raise UserError(
                f"a recurrent policy reads its memory from {self.hidden_key}, which the tensordict does not hold; "
                f"expected an environment that carries it from step to step: add_memory(env, policy) makes it do so."
            )
        if recurrent_mode():
            value, after = self._sequence(tensordict, value, hidden)
        else:
            value, after = self.memory.step(value, hidden)
        outputs = network.decode(value)
        for key, output in zip(self.body.out_keys, outputs if isinstance(outputs, tuple) else (outputs,)):
            tensordict.set(key, output)
        return tensordict.set(unravel_key(("next", self.hidden_key)), after)

    def _sequence(self, tensordict: TensorDictBase, value: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        _check_successive(tensordict)
        time = tensordict.batch_dims - 1
        starts = episode_starts(tensordict, value.ndim).movedim(time, 0)
        first = hidden.select(time, 0)
        value = value.movedim(time, 0)
        value, after = self.memory.sequence(value, first, starts.expand(*value.shape[:-1], 1))
        return value.movedim(0, time), after.movedim(0, time)


def _check_successive(tensordict: TensorDictBase) -> None:
    """Refuses shuffled steps, which would be read as one sequence all the same."""
    count = tensordict.get(keys.STEP_COUNT).movedim(tensordict.batch_dims - 1, 0)
    before, after = count[:-1], count[1:]
    follows = (after == before + 1) | (after == 0) | (after == before)  # a chunk is filled up with its last step
    if not follows.all():
        one, two = (part[~follows][0].item() for part in (before, after))
        raise UserError(
            f"the last batch dimension is a memory's time, and expects a step_count that rises by 1 or begins again at "
            f"0, got {two} behind {one} in a batch of shape {list(tensordict.batch_size)}: were the steps shuffled? "
            f"Keep [environments, steps], or take ChunkMinibatches of globediff_torchrl.training.recurrent."
        )


def episode_starts(tensordict: TensorDictBase, ndim: int) -> Tensor:
    """True at the first step of an episode: ``[*B, 1]``, with as many further dimensions of 1 as ``ndim`` asks for."""
    starts = tensordict.get(keys.STEP_COUNT) == 0
    return starts.reshape(*starts.shape, *[1] * (ndim - starts.ndim))


def hidden_before(tensordict: TensorDictBase, head: RecurrentHead) -> Tensor:
    """Hidden state before each step of ``[*B, T]``, from those after it that ``head`` has written.

    The first step's is what the tensordict holds; that of an episode's first step is zero.
    """
    first, after = tensordict.get(head.hidden_key), tensordict.get(unravel_key(("next", head.hidden_key)))
    time = tensordict.batch_dims - 1
    before = torch.cat([first.narrow(time, 0, 1), after.narrow(time, 0, after.shape[time] - 1)], time)
    return before.masked_fill(episode_starts(tensordict, before.ndim), 0.0)


def memories(module: nn.Module) -> Iterator[RecurrentHead]:
    """The recurrent parts of a module."""
    return (part for part in module.modules() if isinstance(part, RecurrentHead))


def make_head(
    network: Network,
    features: int,
    recurrent: str,
    in_keys: Sequence[NestedKey],
    out_keys: Sequence[NestedKey],
    hidden_key: NestedKey,
) -> Head | RecurrentHead:
    """``network`` as a tensordict module; with ``recurrent="gru"`` a :class:`Memory` as wide as its trunk's output.

    Raises:
        UserError: another name than those of ``RECURRENT``.
    """
    if recurrent not in RECURRENT:
        raise unknown("recurrent", recurrent, RECURRENT)
    if recurrent == "none":
        return Head(network, in_keys=in_keys, out_keys=out_keys)
    return RecurrentHead(network, Memory(features, features), in_keys, out_keys, hidden_key)


def add_memory(env: EnvBase, policy: nn.Module) -> EnvBase:
    """Lets an environment carry the hidden states of a policy from step to step; they are zero after a reset.

    Appends a ``TensorDictPrimer`` for each hidden state that the environment does not carry yet: nothing for a policy
    without memory. ``make_trainer``, ``load_policy`` and the evaluation do it themselves.

    Args:
        env: an environment of ``make_env`` or ``wrap_env``; changed in place.
        policy: the policy that is to act in it.

    Raises:
        UserError: the environment carries the memory of a policy of another size, or has no task.

    Example:
        >>> env = make_env("vmas/hunt", num_envs=4)
        >>> policy = make_actor(env, reads=None, recurrent="gru")
        >>> add_memory(env, policy).rollout(5, policy)["agents", "actor_hidden"].shape
        torch.Size([4, 5, 2, 64])
    """
    for head in memories(policy):
        batch, agents, size = env.batch_size, task_of(env, "add_memory").n_agents, head.memory.size
        shape = (*batch, size) if isinstance(head.hidden_key, str) else (*batch, agents, size)
        if head.hidden_key in env.observation_spec.keys(True, True):
            found = env.observation_spec[head.hidden_key].shape
            if found != torch.Size(shape):
                raise UserError(
                    f"the environment carries {head.hidden_key} of shape {list(found)} for another policy, this one "
                    f"needs {list(shape)}: make an environment of its own for each."
                )
            continue
        spec = Unbounded(shape, device=env.device)
        if not isinstance(head.hidden_key, str):
            group, name = head.hidden_key
            spec = Composite({group: Composite({name: spec}, shape=shape[:-1])}, shape=batch)
        else:
            spec = Composite({head.hidden_key: spec}, shape=batch)
        env.append_transform(TensorDictPrimer(spec.to(env.device), expand_specs=False))
    return env
