"""The true state of any VMAS scenario, as one vector and its layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Entity, Sphere
from vmas.simulator.environment import Environment
from vmas.simulator.scenario import BaseScenario

from globediff_torchrl.layout import Feature, FeatureLayout

Extra = list[tuple[Feature, Tensor]]


def state_parts(env: Environment, scenario_name: str) -> Extra:
    """The state, feature by feature, each ``[B, size]`` and not copied.

    For every entity: position; cosine and sine of its rotation if it can rotate or is no sphere; velocity if it moves;
    angular velocity if it can rotate; communication if it speaks. Then the hidden facts that are no entities: what the
    scenario's own ``state_features()`` returns, or what :data:`HIDDEN_FACTS` knows of a stock scenario.
    """
    scenario, owners = env.scenario, _owners(env)
    listed = getattr(scenario, "state_entities", None)
    parts: Extra = []
    for entity in listed() if listed else scenario.world.agents + scenario.world.landmarks:
        parts.extend(_entity_parts(entity, owners.get(id(entity))))
    facts = getattr(scenario, "state_features", None)
    if facts is not None:
        parts.extend(facts())
    elif scenario_name in HIDDEN_FACTS:
        parts.extend(HIDDEN_FACTS[scenario_name](scenario))
    return parts


def state_layout(env: Environment, scenario_name: str) -> FeatureLayout:
    """What the numbers of :func:`read_state` are."""
    return FeatureLayout(tuple(feature for feature, _ in state_parts(env, scenario_name)))


def read_state(env: Environment, scenario_name: str) -> Tensor:
    """The state as it is now, ``[B, d_s]``, a fresh tensor."""
    return torch.cat([value for _, value in state_parts(env, scenario_name)], dim=-1)


def entity_name(entity: Entity) -> str:
    """VMAS names hold spaces (``goal 0``); ours do not (``goal_0``)."""
    return entity.name.replace(" ", "_")


def _entity_parts(entity: Entity, owner: int | None) -> Extra:
    name, state = entity_name(entity), entity.state
    parts = [(Feature(name, "position", "position", 2, owner), state.pos)]
    if entity.rotatable or not isinstance(entity.shape, Sphere):
        parts.append(
            (Feature(name, "rotation", "rotation", 2, owner), torch.cat([state.rot.cos(), state.rot.sin()], dim=-1))
        )
    if entity.movable:
        parts.append((Feature(name, "velocity", "velocity", 2, owner), state.vel))
    if entity.rotatable:
        parts.append((Feature(name, "angular_velocity", "angular_velocity", 1, owner), state.ang_vel))
    if isinstance(entity, Agent) and not entity.silent and state.c is not None:
        parts.append((Feature(name, "message", "other", state.c.shape[-1], owner), state.c))
    return parts


def _owners(env: Environment) -> dict[int, int]:
    """id(entity) -> agent: each agent owns itself, and its goal unless another agent has the same."""
    owners = {id(agent): i for i, agent in enumerate(env.agents)}
    goals = [id(agent.goal) for agent in env.agents if isinstance(agent.goal, Entity)]
    for i, agent in enumerate(env.agents):
        if isinstance(agent.goal, Entity) and goals.count(id(agent.goal)) == 1:
            owners.setdefault(id(agent.goal), i)
    return owners


def _covered_targets(scenario: BaseScenario) -> Extra:
    covered = scenario.all_time_covered_targets
    return [
        (Feature(entity_name(target), "covered", "flag"), covered[:, i : i + 1].float())
        for i, target in enumerate(scenario._targets)
    ]


def _eaten(scenario: BaseScenario) -> Extra:
    return [
        (Feature(entity_name(food), "eaten", "flag"), food.eaten.unsqueeze(-1).float())
        for food in scenario.world.landmarks
        if hasattr(food, "eaten")
    ]


def _field_centres(scenario: BaseScenario) -> Extra:
    # the cells already sampled are left out: 1,600 flags would drown everything else
    return [(Feature(f"gaussian_{i}", "position", "position", 2), centre) for i, centre in enumerate(scenario.locs)]


HIDDEN_FACTS: dict[str, Callable[[BaseScenario], Extra]] = {
    "discovery": _covered_targets,
    "dropout": _eaten,
    "dispersion": _eaten,
    "sampling": _field_centres,
}
