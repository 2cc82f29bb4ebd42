"""What an environment asks of a team: its sizes, layouts, hidden features, horizon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tensordict import NestedKey

from globediff_torchrl.envs.layout import FeatureLayout
from globediff_torchrl.keys import STATE, TARGET_STATE

AUX_KINDS = ("history", "joint", "joint_history")
UNLIMITED = 100  # steps of a rollout where no limit ends it


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
        return self.max_steps or UNLIMITED

    @property
    def target_key(self) -> NestedKey:
        """Where the state to be inferred stands: ``("agents", "target_state")`` if there is one, else ``"state"``."""
        return STATE if self.target_layout is None else TARGET_STATE

    @property
    def inferred_layout(self) -> FeatureLayout:
        """What the numbers of an inferred state are."""
        return self.state_layout if self.target_layout is None else self.target_layout


def describe_hidden(task: Task) -> str:
    """One line on what the team does not see; what a run prints."""
    hidden = ", ".join(_shortened(task)) or "no feature of the observation"
    layout = task.observation_layout
    count = len(layout.select([name.partition(".")[2] for name in task.hidden])) if task.hidden else 0
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
