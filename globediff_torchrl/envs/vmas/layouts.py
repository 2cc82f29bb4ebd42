"""What the observations of stock VMAS scenarios are, feature by feature, and what success is there.

Feature names say what is subtracted from what, so that a test can check every entry against the simulator:
``X.offset`` is X minus the observer, ``X.to_self`` the observer minus X, ``X.from_Y`` X minus Y; ``X.velocity_to_self``
is the observer's velocity minus that of X. Entities are VMAS's, with ``_`` for spaces; ``mate_1`` is the first of the
other agents in VMAS's order.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from vmas.simulator.environment import Environment
from vmas.simulator.scenario import BaseScenario

from globediff_torchrl.envs.vmas.state import entity_name
from globediff_torchrl.errors import UserError
from globediff_torchrl.layout import Feature, FeatureLayout

OWN = [Feature("agent", "position", "position", 2), Feature("agent", "velocity", "velocity", 2)]


def observation_layout(env: Environment, scenario_name: str, size: int) -> FeatureLayout:
    """What the ``d_o`` numbers of an agent's observation are.

    From the scenario's own ``observation_features()``, from the table here, or else numbered features.

    Raises:
        UserError: where a layout describes another number of numbers than the scenario gives, or the scenario's own is
            no list of features.
    """
    own = getattr(env.scenario, "observation_features", None)
    if own is None and scenario_name not in OBSERVATIONS:
        return FeatureLayout.numbered(size)
    features = own() if own is not None else OBSERVATIONS[scenario_name](env.scenario)
    if not isinstance(features, list | tuple) or not all(isinstance(feature, Feature) for feature in features):
        raise UserError(
            f"observation_features() of {scenario_name} must return a list of Feature, got {features!r}: return e.g. "
            '[Feature("agent", "position", "position", 2), ...].'
        )
    layout = FeatureLayout(tuple(features))
    if layout.size == size:
        return layout
    if own is not None:
        raise UserError(f"observation_features of {scenario_name} describe {layout.size} numbers; it gives {size}.")
    # keyword arguments that change what a stock scenario shows, beyond what the table follows
    return FeatureLayout.numbered(size)


def _offset(entity: str, name: str = "offset") -> Feature:
    return Feature(entity, name, "offset", 2)


def _velocity(entity: str, name: str = "velocity") -> Feature:
    return Feature(entity, name, "velocity", 2)


def _balance(scenario: BaseScenario) -> list[Feature]:
    return [
        *OWN,
        _offset("package", "to_self"),
        _offset("line", "to_self"),
        _offset("package", "from_goal"),
        _velocity("package"),
        _velocity("line"),
        Feature("line", "angular_velocity", "angular_velocity"),
        Feature("line", "angle", "other"),
    ]


def _transport(scenario: BaseScenario) -> list[Feature]:
    features = list(OWN)
    for name in map(entity_name, scenario.packages):
        features += [_offset(name, "from_goal"), _offset(name), _velocity(name), Feature(name, "on_goal", "flag")]
    return features


def _reverse_transport(scenario: BaseScenario) -> list[Feature]:
    name = entity_name(scenario.package)
    return [*OWN, _velocity(name), _offset(name), _offset(name, "from_goal")]


def _navigation(scenario: BaseScenario) -> list[Feature]:
    goals = ["goal"]
    if scenario.observe_all_goals:
        goals = [f"goal_{i}" for i in range(scenario.n_agents)]
    lidar = [Feature("agent", "lidar", "sensor", scenario.n_lidar_rays)] if scenario.collisions else []
    return [*OWN, *(_offset(goal, "to_self") for goal in goals), *lidar]


def _discovery(scenario: BaseScenario) -> list[Feature]:
    mates = [Feature("mates", "lidar", "sensor", scenario.n_lidar_rays_agents)] if scenario.use_agent_lidar else []
    return [*OWN, Feature("targets", "lidar", "sensor", scenario.n_lidar_rays_entities), *mates]


def _sampling(scenario: BaseScenario) -> list[Feature]:
    return [*OWN, Feature("mates", "lidar", "sensor", 12), Feature("field", "samples", "sensor", 8)]


def _flocking(scenario: BaseScenario) -> list[Feature]:
    rays = scenario.world.policy_agents[0].sensors[0]._angles.shape[-1]
    return [*OWN, _offset("target", "to_self"), Feature("agent", "lidar", "sensor", rays)]


def _wheel(scenario: BaseScenario) -> list[Feature]:
    return [
        *OWN,
        _offset("line"),
        _offset("line", "end_1_offset"),
        _offset("line", "end_2_offset"),
        Feature("line", "angle", "other"),
        Feature("line", "speed", "angular_velocity"),
        Feature("line", "speed_error", "angular_velocity"),
    ]


def _football(scenario: BaseScenario) -> list[Feature]:
    features = [
        Feature("agent", "force", "action", 2),
        _offset("Ball", "to_self"),
        _velocity("Ball", "velocity_to_self"),
        _offset("Ball", "from_opposite_goal"),
        _velocity("Ball"),
        Feature("Ball", "force", "other", 2),
        *([Feature("agent", "angle", "other")] if scenario.enable_shooting else []),
        _offset("opposite_goal", "to_self"),
        _velocity("agent"),
    ]
    opponents = len(scenario.red_agents) if scenario.observe_adversaries else 0
    others = [f"opponent_{i + 1}" for i in range(opponents)]
    others += [f"mate_{i}" for i in range(1, len(scenario.blue_agents))] if scenario.observe_teammates else []
    for name in others:
        features += [_offset(name, "to_self"), _velocity(name, "velocity_to_self"), _velocity(name)]
        features.append(Feature(name, "force", "other", 2))
    return features


def _dropout(scenario: BaseScenario) -> list[Feature]:
    return [*OWN, _offset("goal"), Feature("goal", "eaten", "flag")]


def _dispersion(scenario: BaseScenario) -> list[Feature]:
    features = list(OWN)
    for name in map(entity_name, scenario.world.landmarks):
        features += [_offset(name), Feature(name, "eaten", "flag")]
    return features


def _passage(scenario: BaseScenario) -> list[Feature]:
    open_ones = [entity for entity in scenario.world.landmarks[scenario.n_agents :] if not entity.collide]
    return [*OWN, _offset("goal"), *(_offset(entity_name(entity)) for entity in open_ones)]


def _simple_spread(scenario: BaseScenario) -> list[Feature]:
    landmarks = [entity_name(landmark) for landmark in scenario.world.landmarks]
    mates = [f"mate_{i}" for i in range(1, len(scenario.world.agents))] if scenario.obs_agents else []
    return [*OWN, *map(_offset, landmarks + mates)]


OBSERVATIONS: dict[str, Callable[[BaseScenario], list[Feature]]] = {
    "balance": _balance,
    "transport": _transport,
    "reverse_transport": _reverse_transport,
    "navigation": _navigation,
    "discovery": _discovery,
    "sampling": _sampling,
    "flocking": _flocking,
    "wheel": _wheel,
    "football": _football,
    "dropout": _dropout,
    "dispersion": _dispersion,
    "passage": _passage,
    "simple_spread": _simple_spread,
}


def _packages_on_goal(scenario: BaseScenario) -> Tensor:
    packages = getattr(scenario, "packages", None) or [scenario.package]
    overlaps = [scenario.world.is_overlapping(package, package.goal) for package in packages]
    return sum(overlap.long() for overlap in overlaps) == len(packages)


def _ended(scenario: BaseScenario) -> Tensor:
    """For the scenarios that end only when the task is done."""
    return scenario.done().bool()


SUCCESS: dict[str, Callable[[BaseScenario], Tensor]] = {
    "balance": _packages_on_goal,
    "transport": _packages_on_goal,
    "reverse_transport": _packages_on_goal,
    "navigation": _ended,
    "discovery": lambda scenario: scenario.all_time_covered_targets.bool().all(dim=-1),
    "dropout": _ended,
    "dispersion": _ended,
    "passage": _ended,
}
