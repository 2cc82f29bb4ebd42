"""Partially observable VMAS tasks in which inferring the state pays: data, one entry each."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmas.simulator.scenario import BaseScenario

from globediff_torchrl.envs.vmas import scenarios
from globediff_torchrl.errors import UserError, check_count, kind_of


@dataclass(frozen=True)
class Preset:
    """A scenario with arguments, hidden features and a default x.

    Args:
        scenario: a scenario class of ours, or the name of a stock one.
        kwargs: keyword arguments of the scenario.
        hide: patterns over the observation's features.
        aux: default x.
        max_steps: default time limit; None for none.
        description: one line.

    Raises:
        UserError: the scenario is neither, such as an instance; a time limit that is no whole number above 0.
    """

    scenario: str | type[BaseScenario]
    aux: str
    max_steps: int | None
    description: str
    kwargs: dict = field(default_factory=dict)
    hide: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scenario = self.scenario
        if not isinstance(scenario, str) and not (isinstance(scenario, type) and issubclass(scenario, BaseScenario)):
            raise UserError(
                f"A Preset expects a scenario class or the name of a stock scenario, got {kind_of(scenario)}: pass the "
                "class itself, a subclass of VMAS's BaseScenario; its arguments go into kwargs."
            )
        if self.max_steps is not None:
            check_count("max_steps of a Preset", self.max_steps, "None is no limit")


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
