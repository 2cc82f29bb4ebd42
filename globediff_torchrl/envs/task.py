"""What an environment asks of a team: its sizes, layouts, hidden features, horizon."""

from __future__ import annotations

from dataclasses import dataclass

from globediff_torchrl.envs.layout import FeatureLayout

AUX_KINDS = ("history", "joint", "joint_history")


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
        has_success: whether the environment writes ``"success"``.
        continuous: whether actions are continuous.
        description: one line.
    """

    name: str
    n_agents: int
    observation_layout: FeatureLayout
    state_layout: FeatureLayout
    hidden: tuple[str, ...]
    aux: str | None
    aux_dim: int
    max_steps: int | None
    has_success: bool
    continuous: bool
    description: str


def describe_hidden(task: Task) -> str:
    """One line on what the team does not see; what a run prints."""
    hidden = ", ".join(task.hidden) or "no feature of the observation"
    inferred = f" The state is inferred from x = {task.aux}." if task.aux else ""
    return f"{task.name} hides {hidden}.{inferred}"
