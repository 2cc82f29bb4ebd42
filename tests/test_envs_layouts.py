"""Layouts say what the simulator does: every named number against the simulator's own objects."""

from __future__ import annotations

import pytest
import torch

from globediff_torchrl.envs import make_env
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.envs.vmas.layouts import OBSERVATIONS
from globediff_torchrl.envs.vmas.state import entity_name

STOCK = [name for name in OBSERVATIONS if name != "sampling"]  # a second a reset
STATE_ATTRIBUTES = {"position": "pos", "velocity": "vel", "angular_velocity": "ang_vel", "message": "c"}


def stepped(name):
    """The environment after some random steps, its tensordict, and the simulator behind it."""
    torch.manual_seed(0)
    env = make_env(f"vmas/{name}", num_envs=3, hide=None)
    td = env.rollout(12, break_when_any_done=False)[:, -1]
    td = env.step(env.rand_action(td["next"].exclude(("agents", "reward"))))["next"]
    return env, td, env.base_env._env


def find(simulator, observer, name):
    """The VMAS entity that an observation calls ``name``."""
    world = simulator.world
    if name in ("goal", "opposite_goal") and getattr(observer.goal, "state", None) is not None:
        return observer.goal
    team = simulator.agents
    mates = [team[(team.index(observer) + k) % len(team)] for k in range(1, len(team))]
    if name.startswith("goal_of_mate_"):
        return mates[int(name[-1]) - 1].goal
    if name.startswith("mate_"):
        return [agent for agent in team if agent is not observer][int(name[-1]) - 1]
    if name.startswith("opponent_"):
        return simulator.scenario.red_agents[int(name[-1]) - 1]
    return next((e for e in world.agents + world.landmarks if entity_name(e) == name), None)


def place(simulator, observer, name):
    if name == "opposite_goal":
        return simulator.scenario.right_goal_pos
    return find(simulator, observer, name).state.pos


def expected(simulator, observer, feature):
    """What the simulator says a feature is; None where its name does not tell."""
    own = observer.state
    if feature.entity == "agent":
        return {"position": own.pos, "velocity": own.vel, "force": own.force}.get(feature.name)
    if feature.name == "offset":
        return place(simulator, observer, feature.entity) - own.pos
    if feature.name == "to_self":
        return own.pos - place(simulator, observer, feature.entity)
    if feature.name.startswith("from_"):
        return place(simulator, observer, feature.entity) - place(simulator, observer, feature.name[5:])
    entity = find(simulator, observer, feature.entity)
    if entity is None:
        return None
    state, rot = entity.state, entity.state.rot
    length = getattr(simulator.scenario, "line_length", 0)
    end = length / 2 * torch.cat([rot.cos(), rot.sin()], dim=-1)
    return {
        "velocity": state.vel,
        "velocity_to_self": own.vel - state.vel,
        "angular_velocity": state.ang_vel,
        "force": getattr(state, "force", None),
        "angle": rot % torch.pi,
        "speed": state.ang_vel.abs(),
        "end_1_offset": end - own.pos,
        "end_2_offset": -end - own.pos,
        "range": (state.pos - own.pos).norm(dim=-1, keepdim=True),
    }.get(feature.name)


@pytest.mark.parametrize("name", [*PRESETS, *STOCK])
def test_observation_layout_agrees_with_the_simulator(name):
    env, td, simulator = stepped(name)
    layout, checked = env.task.observation_layout, 0
    assert layout.size == td["agents", "observation"].shape[-1]
    assert "agent.f0" not in layout.names
    for i, observer in enumerate(simulator.agents):
        observation = td["agents", "observation"][:, i]
        for feature in layout.features:
            truth = expected(simulator, observer, feature)
            if truth is not None:
                checked += feature.size
                torch.testing.assert_close(observation[:, layout.slices[feature.full_name]], truth.expand(3, -1))
    assert checked >= 4 * len(simulator.agents)


@pytest.mark.parametrize("name", ["navigation", "discovery", "flocking"])
def test_lidars_are_where_the_layout_says(name):
    env, td, simulator = stepped(name)
    where = next(f for f in env.task.observation_layout.features if f.kind == "sensor").full_name
    readings = td["agents", "observation"][:, 0, env.task.observation_layout.slices[where]]
    sensor = simulator.agents[0].sensors[0]
    measured = sensor.measure()
    # navigation shows nearness, the range minus what is measured
    truth = sensor._max_range - measured if name == "navigation" else measured
    torch.testing.assert_close(readings, truth)


@pytest.mark.parametrize("name", [*PRESETS, *STOCK, "give_way", "simple_crypto"])
def test_state_layout_agrees_with_the_simulator(name):
    env, td, simulator = stepped(name)
    layout, world = env.task.state_layout, simulator.world
    entities = {entity_name(entity): entity for entity in world.agents + world.landmarks}
    assert layout.size == td["state"].shape[-1]
    checked = set()
    for feature in layout.features:
        value = td["state"][:, layout.slices[feature.full_name]]
        if feature.entity in entities and feature.name in STATE_ATTRIBUTES:
            state = entities[feature.entity].state
            torch.testing.assert_close(value, getattr(state, STATE_ATTRIBUTES[feature.name]))
            checked.add((feature.entity, feature.name))
        elif feature.entity in entities and feature.name == "rotation":
            rot = entities[feature.entity].state.rot
            torch.testing.assert_close(value, torch.cat([rot.cos(), rot.sin()], dim=-1))
    for agent in world.agents:
        assert (entity_name(agent), "position") in checked
        assert ((entity_name(agent), "velocity") in checked) == agent.movable


@pytest.mark.parametrize("name", [*PRESETS, *STOCK, "simple_crypto"])
def test_each_agent_owns_an_entity_with_a_position(name):
    env = make_env(f"vmas/{name}", num_envs=1)
    features = env.task.state_layout.features
    for i, agent in enumerate(env.base_env._env.agents):
        owned = [f.entity for f in features if f.owner == i and f.kind == "position"]
        assert entity_name(agent) in owned


def test_goals_belong_to_the_agent_that_goes_to_them():
    owners = {f.entity: f.owner for f in make_env("vmas/relay", num_envs=1).task.state_layout.features}
    assert [owners[f"goal_{i}"] for i in range(3)] == [0, 1, 2]
    shared = {f.entity: f.owner for f in make_env("vmas/trilateration", num_envs=1).task.state_layout.features}
    assert shared["goal"] is None and "goal_1" not in shared


def test_hidden_facts_are_in_the_state():
    def names(name, **kwargs):
        return make_env(f"vmas/{name}", num_envs=2, **kwargs).task.state_layout.names

    assert "target_3.covered" in names("discovery")
    assert "food_2.eaten" in names("dispersion")
    assert "goal.eaten" in names("dropout")
    assert "team.heading" in names("compass")
    assert "team.bits" in names("gates")


def test_the_state_follows_hidden_facts():
    env = make_env("vmas/dispersion", num_envs=2)
    td = env.reset()
    food = env.base_env._env.world.landmarks[1]
    food.eaten[:] = torch.tensor([True, False])
    td = env.step(env.rand_action(td))["next"]
    assert td["state"][:, env.task.state_layout.slices["food_1.eaten"]].flatten().tolist() == [1.0, 0.0]


def test_keyword_arguments_change_the_layout_with_the_observation():
    def names(name, **kwargs):
        return make_env(f"vmas/{name}", num_envs=1, **kwargs).task.observation_layout.names

    assert "goal_3.to_self" in names("navigation", observe_all_goals=True)
    assert "package_1.on_goal" in names("transport", n_packages=2)
    assert "mates.lidar" in names("discovery", use_agent_lidar=True)
