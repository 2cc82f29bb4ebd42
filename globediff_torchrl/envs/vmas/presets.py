"""Partially observable VMAS tasks in which inferring the state pays: data, one entry each."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmas.simulator.scenario import BaseScenario

from globediff_torchrl.envs.vmas import scenarios


@dataclass(frozen=True)
class Preset:
    """A scenario with arguments, hidden features and a default x.

    Args:
        scenario: a scenario class of ours, or the name of a stock one.
        kwargs: keyword arguments of the scenario.
        hide: patterns over the observation's features.
        aux: default x.
        max_steps: default time limit.
        description: one line.
    """

    scenario: str | type[BaseScenario]
    aux: str
    max_steps: int
    description: str
    kwargs: dict = field(default_factory=dict)
    hide: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    "relay": Preset(
        scenarios.Navigation,
        kwargs={"n_agents": 3, "mates_goals": True},
        hide=("goal.offset",),
        aux="joint",
        max_steps=50,
        description="three agents, each blind to its own goal and shown those of the others",
    ),
    "trilateration": Preset(
        scenarios.Navigation,
        kwargs={"n_agents": 3, "shared_goal": True, "goal_range": True},
        hide=("goal.offset",),
        aux="joint",
        max_steps=50,
        description="three agents, each told its distance to one shared goal: three ranges fix a point",
    ),
    "mirror": Preset(
        scenarios.Navigation,
        kwargs={"n_agents": 2, "shared_goal": True, "goal_range": True},
        hide=("goal.offset",),
        aux="joint_history",
        max_steps=50,
        description="two agents, two ranges to one goal: up to two mirror points, until somebody moves",
    ),
    "hunt": Preset(
        scenarios.Hunt,
        hide=("target.offset",),
        aux="joint_history",
        max_steps=60,
        description="two agents, each told its distance to a hidden target, stand on it",
    ),
    "compass": Preset(
        scenarios.Compass,
        kwargs={"n_agents": 3},
        hide=("agent.velocity", "team.heading"),
        aux="history",
        max_steps=50,
        description="three agents whose controls are turned by a hidden angle",
    ),
    "gates": Preset(
        scenarios.Gates,
        aux="joint",
        max_steps=50,
        description="two hidden bits whose product says which gate pays; each agent holds one share of the product",
    ),
    "sonar": Preset(
        scenarios.Sonar,
        hide=("source.offset",),
        aux="joint",
        max_steps=50,
        description="two ranges from a rail leave a place on either side of it; what pays is how far off it is",
    ),
    "pursuit": Preset(
        scenarios.Pursuit,
        kwargs={"n_agents": 3},
        hide=("target.offset",),
        aux="joint_history",
        max_steps=60,
        description="three agents follow a bouncing target that they see only from near",
    ),
    "balance_sensors": Preset(
        "balance",
        hide=(
            *(f"agent_{i}.package.{name}" for i in (1, 2) for name in ("to_self", "velocity")),
            *(f"agent_{i}.line.*" for i in (0, 2)),
            *(f"agent_{i}.package.from_goal" for i in (0, 1)),
        ),
        aux="joint",
        max_steps=100,
        description="balance, where one agent senses the package, one the line, one the goal",
    ),
}
SHIPPED = tuple(PRESETS.values())  # without those that a program adds
