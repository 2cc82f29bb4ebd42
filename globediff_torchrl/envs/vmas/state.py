"""The true state of any VMAS scenario, and what is to be inferred of it, as one vector and its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Entity, Sphere
from vmas.simulator.environment import Environment
from vmas.simulator.scenario import BaseScenario

from globediff_torchrl.errors import UserError
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
    """What the numbers of :func:`read_state` are.

    Raises:
        UserError: the scenario's own ``state_features()`` or ``state_entities()`` return something else than they must.
    """
    _check_entities(env, scenario_name)
    _check_facts(env, scenario_name, "state_features", ([env.num_envs],))
    return FeatureLayout(tuple(feature for feature, _ in state_parts(env, scenario_name)))


def read_state(env: Environment, scenario_name: str) -> Tensor:
    """The state as it is now, ``[B, d_s]``, float32, a fresh tensor."""
    return torch.cat([value for _, value in state_parts(env, scenario_name)], dim=-1).float()


def target_layout(env: Environment, scenario_name: str) -> FeatureLayout | None:
    """What the numbers of :func:`read_target` are; None where the scenario has no ``target_features()``.

    Raises:
        UserError: it returns something else than it must.
    """
    if getattr(env.scenario, "target_features", None) is None:
        return None
    _check_facts(env, scenario_name, "target_features", ([env.num_envs], [env.num_envs, len(env.agents)]))
    parts = env.scenario.target_features()
    if not parts:
        raise UserError(
            f"target_features() of {scenario_name} must return at least one (Feature, tensor), got none: leave the "
            "method away to have the whole state inferred."
        )
    return FeatureLayout(tuple(feature for feature, _ in parts))


def target_is_shared(env: Environment) -> bool:
    """Whether the target is the same for all agents: each part is given once, ``[B, size]``."""
    return all(value.ndim == 2 for _, value in env.scenario.target_features())


def read_target(env: Environment) -> Tensor:
    """The target as it is now, ``[B, n, d_t]``, float32, a fresh tensor."""
    n = len(env.agents)
    values = [value for _, value in env.scenario.target_features()]
    own = [value if value.ndim == 3 else value.unsqueeze(1).expand(-1, n, -1) for value in values]
    return torch.cat(own, dim=-1).float()


def check_success(success: object, scenario_name: str, batch: int) -> None:
    """Refuses what is no tensor ``[B]`` or ``[B, 1]``, one number an environment."""
    if isinstance(success, Tensor) and success.shape in ((batch,), (batch, 1)):
        return
    raise UserError(
        f"success() of {scenario_name} must return a bool tensor [{batch}], one an environment, got "
        f"{_described(success)}: return e.g. (self.distances() < 0.1).all(dim=1)."
    )


def _check_entities(env: Environment, scenario_name: str) -> None:
    listed = getattr(env.scenario, "state_entities", None)
    for entity in [] if listed is None else _items(listed()):
        if not isinstance(entity, Entity):
            raise UserError(
                f"state_entities() of {scenario_name} must return a list of VMAS entities, got {entity!r} in it: "
                "return the entities themselves, e.g. self.world.agents + self.world.landmarks."
            )


def _check_facts(env: Environment, scenario_name: str, method: str, leading: tuple[list[int], ...]) -> None:
    """Refuses tensors that are not as large as their features say: all later numbers would get wrong names.

    ``leading`` are the dims that may stand before a feature's size.
    """
    listed = getattr(env.scenario, method, None)
    shapes = " or ".join(f"[{', '.join(map(str, dims))}, size]" for dims in leading)
    asked = f"{method}() of {scenario_name} must return a list of (Feature, tensor {shapes})"
    for fact in [] if listed is None else _items(listed()):
        if not (isinstance(fact, list | tuple) and len(fact) == 2 and isinstance(fact[0], Feature)):
            raise UserError(
                f'{asked}, got {_described(fact)} in it: return e.g. [(Feature("team", "bit", "flag"), '
                "self.bit.unsqueeze(-1))]."
            )
        feature, value = fact
        if not isinstance(value, Tensor) or list(value.shape) not in [[*dims, feature.size] for dims in leading]:
            raise UserError(
                f"{asked}, got {_described(value)} for {feature.full_name} of size {feature.size}: bring the tensor to "
                f"that shape, one number by unsqueeze(-1), or give the Feature the size of the tensor."
            )


def _items(returned: object) -> list:
    """What a list holds; anything else is one wrong item."""
    several = isinstance(returned, Iterable) and not isinstance(returned, Mapping | Tensor | str)
    return list(returned) if several else [returned]


def _described(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


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
