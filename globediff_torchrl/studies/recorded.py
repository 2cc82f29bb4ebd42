"""Recorded episodes: whole ones of a policy, and any auxiliary observation x of any of their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.envs.processes.crashed import crashed_steps
from globediff_torchrl.errors import UserError


@torch.no_grad()
def record_episodes(
    env: EnvBase,
    policy: Callable[[TensorDictBase], TensorDictBase],
    read: Callable[[TensorDictBase], TensorDictBase],
    episodes: int,
    seed: int,
    label: str = "episodes",
) -> TensorDict:
    """Whole episodes of the stochastic policy, one after the other; those that a crash ended are left out.

    Args:
        env: batch size ``[B]``; resets itself where an episode ends.
        read: what to keep of a step, from the tensordict that the policy acts on: a copy, for the environment writes
            into what it gave.
        episodes: how many. seed: of the policy's actions and of which episodes are kept.
        label: of the progress bar.

    Returns:
        ``[N]`` steps with the keys of ``read`` and ``"episode"`` ``[N]``, 0 to ``episodes`` - 1, drawn from all that
        ended; those that still went on are left out.
    """
    torch.manual_seed(seed)
    td, records, marks, ended = env.reset(), [], [], 0
    with set_exploration_type(ExplorationType.RANDOM), tqdm(total=episodes, desc=label) as bar:
        while ended < episodes:
            records.append(read(td))
            full, td = env.step_and_maybe_reset(policy(td))
            marks.append(full.select(("next", keys.DONE), ("next", keys.CRASHED), strict=False).clone())
            done, crashed = full["next", keys.DONE], full.get(("next", keys.CRASHED), None)
            finished = int((done if crashed is None else done & ~crashed).sum())
            ended += finished
            bar.update(finished)
    pieces = whole_episodes(torch.stack(records, 1), torch.stack(marks, 1))
    order = torch.randperm(len(pieces))[:episodes].tolist()  # the first ones are of all environments alike
    return torch.cat([pieces[i].set("episode", torch.full((len(pieces[i]),), k)) for k, i in enumerate(order)])


def whole_episodes(steps: TensorDictBase, marks: TensorDictBase) -> list[TensorDictBase]:
    """Cuts ``[B, T]`` into the episodes that end within it, ``[length]`` each, but for those that end in a crash.

    Args:
        steps: begins with the first step of an episode everywhere.
        marks: ``("next", "done")`` ``[B, T, 1]``, and ``("next", "crashed")`` of a guarded environment.
    """
    done = marks["next", keys.DONE].squeeze(-1)
    guarded = ("next", keys.CRASHED) in marks.keys(True, True)
    crashed = crashed_steps(marks).squeeze(-1) if guarded else torch.zeros_like(done)
    pieces = []
    for row, over, lost in zip(steps, done, crashed):
        bounds = [0, *(over.nonzero().flatten() + 1).tolist()]
        pieces += [row[a:b] for a, b in pairwise(bounds) if not lost[a]]
    return pieces


@dataclass(frozen=True)
class Reads:
    """An x of frames, as :class:`~globediff_torchrl.envs.auxiliary.AuxObservation` makes it within an environment.

    Args:
        history: m, earlier frames, as successive differences. join: the whole team's frames, the agent's own first.
        actions: whether a frame has the agent's last action beside its observation.
    """

    history: int = 0
    join: bool = False
    actions: bool = True


class Recorded:
    """Steps of whole episodes, and any x of any of them: built row by row, for all of a joint history take gigabytes.

    Args:
        data: ``observation`` ``[N, n, k]``; ``last_action`` ``[N, n]`` (long or int8, -1 at the start); ``alive``
            ``[N, n]`` (bool); ``step`` ``[N]``, 0 at the start of an episode; ``episode`` ``[N]``; targets ``[N, d_s]``
            or ``[N, n, d_t]`` under names of their own.
        actions: how many there are.
        limit: steps until the time is up.

    Example:
        >>> data = Recorded(torch.load("mirrored-3600.pt", weights_only=True), actions=10, limit=101)
        >>> data.x(Reads(history=3), data.some(512, seed=0)).shape
        torch.Size([512, 413])
    """

    def __init__(self, data: dict[str, Tensor], actions: int, limit: int) -> None:
        self.data, self.limit = data, limit
        one_hot = nn.functional.one_hot(data["last_action"].long() + 1, actions + 1)[..., 1:].float()
        self.frames = torch.cat([data["observation"], one_hot], -1)  # [N, n, f]
        self.observed, self.n = data["observation"].shape[-1], self.frames.shape[1]
        self.alive, self.episode, self.step = (data[name] for name in ("alive", "episode", "step"))
        self.first = torch.arange(len(self.step)) - self.step  # each episode's first step
        self.rows = self.alive.nonzero()  # [R, 2]: step, agent
        self.memory: Tensor | None = None  # [N, n, h], of a model that has read each episode up to there

    def x(self, reads: Reads | str, rows: Tensor) -> Tensor:
        """``[M, d_x]`` for rows ``[M, 2]`` (step, agent).

        Args:
            reads: frames, then the agent's id; ``"time"``, the share of the limit that has passed, alone; ``"memory"``,
                what :func:`~globediff_torchrl.studies.episode_memory.remember` wrote, the frame and the id.

        Raises:
            UserError: ``"memory"`` where there is none; another word.
        """
        steps, agents = rows.unbind(1)
        index = torch.eye(self.n)[agents]
        if reads == "time":
            return (self.step[steps] / self.limit).unsqueeze(1)
        if reads == "memory":
            if self.memory is None:
                raise UserError("x of the memory expects one, got none: call remember(model, data) before.")
            return torch.cat([self.memory[steps, agents], self.frames[steps, agents], index], 1)
        if not isinstance(reads, Reads):
            raise UserError(f"x expects Reads(...), 'time' or 'memory', got {reads!r}.")
        others = (agents[:, None] + torch.arange(self.n if reads.join else 1)) % self.n
        back = torch.maximum(steps[:, None] - torch.arange(reads.history + 1), self.first[steps][:, None])
        frames = self.frames[back[:, None, :], others[:, :, None]]  # [M, team, history + 1, f]
        if not reads.actions:
            frames = frames[..., : self.observed]
        frames = torch.cat([frames[:, :, :1], frames[:, :, :-1] - frames[:, :, 1:]], 2)
        return torch.cat([frames.flatten(1), index], 1)

    def target(self, name: str, rows: Tensor) -> Tensor:
        """``[M, d]``, what is to be inferred at the rows."""
        value = self.data[name]
        return value[rows[:, 0]] if value.ndim == 2 else value[rows[:, 0], rows[:, 1]]

    def some(self, count: int, seed: int) -> Tensor:
        """Random rows of living agents, ``[count, 2]``."""
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))
        return self.rows[order[:count]]

    def until(self, episodes: int) -> Tensor:
        """The rows of the first episodes."""
        return self.rows[self.episode[self.rows[:, 0]] < episodes]
