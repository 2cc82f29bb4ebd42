"""What an environment asks of a team: its sizes, layouts, hidden features, horizon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tensordict import NestedKey
from torchrl.envs import TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase

from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import STATE, TARGET_STATE
from globediff_torchrl.layout import FeatureLayout

AUX_KINDS = ("history", "joint", "joint_history")
DEFAULT_HORIZON = 100  # steps of a rollout where no limit ends it
ALL_COPIES = "make it with make_env(..., num_envs=n) or, of n bare environments, with wrap_env(SerialEnv(n, create))"
ONE_COPY = "make it with make_env(...) or wrap_env(...), of several copies pass one"


@dataclass(frozen=True)
class Task:
    """Facts about an environment that models, actors and reports are built from; at ``env.task``.

    Args:
        name: as given to :func:`~globediff_torchrl.envs.make_env`.
        n_agents: size of the team, ``n``.
        observation_layout: what the ``d_o`` numbers of an agent's observation are.
        state_layout: what the ``d_s`` numbers of the state are.
        hidden: what is zeroed, e.g. ``"agents.target.offset"`` or, for one agent, ``"agent_0.line.velocity"``.
        aux: ``"history"``, ``"joint"``, ``"joint_history"`` or None.
        aux_dim: ``d_x``; 0 where aux is None.
        max_steps: time limit in steps, None for no limit.
        description: one line.
        target_layout: what the ``d_t`` numbers of ``("agents", "target_state")`` are; None where there is none.
        target_shared: whether that is the same for all agents, as the state is, so that one inference can serve them.
        ends_early: whether episodes end before the time limit, so that a batch holds pieces of episodes.
        code: a fingerprint of the scenario's source, so that data of another version are not taken for its own; None
            where there is no source to look at.
    """

    name: str
    n_agents: int
    observation_layout: FeatureLayout
    state_layout: FeatureLayout
    hidden: tuple[str, ...]
    aux: str | None
    aux_dim: int
    max_steps: int | None
    description: str
    target_layout: FeatureLayout | None = None
    target_shared: bool = False
    ends_early: bool = False
    code: str | None = None

    @property
    def horizon(self) -> int:
        """Steps of a rollout that holds whole episodes: the time limit, or 100 where there is none."""
        return self.max_steps or DEFAULT_HORIZON

    @property
    def target_key(self) -> NestedKey:
        """Where the state to be inferred stands: ``("agents", "target_state")`` if there is one, else ``"state"``."""
        return STATE if self.target_layout is None else TARGET_STATE

    @property
    def inferred_layout(self) -> FeatureLayout:
        """What the numbers of an inferred state are."""
        return self.state_layout if self.target_layout is None else self.target_layout


def task_of(env: Any, asker: str, fix: str = ALL_COPIES) -> Task:
    """The task of an environment, also of one with further transforms around it.

    Args:
        env: from ``make_env`` or ``wrap_env``.
        asker: the function that needs it, for the message.
        fix: what the message offers.

    Raises:
        UserError: it has none, as it was not wrapped, or as it is several copies that were (SerialEnv, ParallelEnv).
    """
    inner = env
    while isinstance(inner, TransformedEnv) and "task" not in vars(inner):
        inner = inner.base_env
    # copies are not asked: they answer with a list of theirs, or start workers, and a worker that has none dies of it
    copies = isinstance(inner, BatchedEnvBase)
    task = vars(inner).get("task") if copies else getattr(inner, "task", None)
    if not isinstance(task, Task):
        got = f"several copies in a {type(inner).__name__}" if copies else type(env).__name__
        raise UserError(
            f"{asker} expects one environment with a `task` (make_env and wrap_env give one), got {got}: {fix}."
        )
    return task


def describe_hidden(task: Task) -> str:
    """One line on what the team does not see; what a run prints."""
    hidden = ", ".join(_shortened(task)) or "no feature of the observation"
    layout = task.observation_layout
    count = len(layout.select([name.partition(".")[2] for name in task.hidden]))
    numbers = f" ({count} of the {layout.size} numbers of an observation)" if count else ""
    inferred = f" The state is inferred from x = {task.aux}." if task.aux else ""
    return f"{task.name} hides {hidden}{numbers}.{inferred}"


def _shortened(task: Task) -> list[str]:
    """The hidden names, where ``agents.enemy_*.health`` stands for all the enemies' if none of them is visible."""
    names: dict[str, None] = {}
    for name in task.hidden:
        entity, _, feature = name.removeprefix("agents.").rpartition(".")
        pattern = re.sub(r"_\d+$", "_*", entity) + "." + feature
        alike = [f"agents.{other}" for other in task.observation_layout.names if fnmatchcase(other, pattern)]
        several = len(alike) > 1 and set(alike) <= set(task.hidden)
        names[f"agents.{pattern}" if several else name] = None
    return list(names)
