"""A snapshot of the simulator brings back what scenarios choose in a reset: a goal, a mass, a position."""

from __future__ import annotations

import io

import pytest
import torch
from torchrl.envs import RewardScaling, TransformedEnv

from globediff_torchrl.envs import (
    available_envs,
    load_simulator_state,
    make_env,
    set_vmas_rng_state,
    simulator_state,
    vmas_rng_state,
)
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.errors import UserError

# their agents have actions of different sizes: there is no environment to save
REFUSED = {"vmas/diff_drive", "vmas/kinematic_bicycle", "vmas/simple_speaker_listener", "vmas/simple_world_comm"}
NAMES = sorted(name for name in available_envs() if name.startswith("vmas/") and name not in REFUSED)
CHOOSING = ("het_mass", "road_traffic", "simple_adversary", "simple_push", "simple_reference")  # beside tensors
SEEDS = (1, 2)  # under one of them each of the choices falls otherwise


def steps(env, td, actions):
    """What the steps with these actions give, one tensordict a step."""
    found = []
    for action in actions:
        td = env.step(td.clone().set(("agents", "action"), action))["next"]
        found.append(td.select("agents", "state", "terminated"))
        td = td.exclude(("agents", "reward"))
    return found


def saved_and_loaded(*state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def played(name, steps_before):
    """An environment in its second episode, its tensordict, and three actions for what follows."""
    env = make_env(name, num_envs=3, seed=0)
    env.reset()
    td = env.reset()
    if steps_before:
        td = env.rollout(steps_before, break_when_any_done=False, auto_reset=False, tensordict=td)[:, -1]["next"]
        td = td.exclude(("agents", "reward"))
    torch.manual_seed(5)
    return env, td, [env.full_action_spec["agents", "action"].rand() for _ in range(3)]


def assert_goes_on(name, td, state, stream, actions, expected, seeds=SEEDS):
    for seed in seeds:
        fresh = make_env(name, num_envs=3, seed=seed)
        load_simulator_state(fresh, state)
        set_vmas_rng_state(stream)
        for step, (want, found) in enumerate(zip(expected, steps(fresh, td, actions), strict=True)):
            wrong = [key for key, value in want.items(True, True) if not torch.equal(value, found[key])]
            assert not wrong, f"seed {seed}, step {step}: {wrong}"


@pytest.mark.parametrize(
    "name, steps_before", [(name, 2) for name in NAMES] + [(f"vmas/{name}", 0) for name in CHOOSING]
)
def test_every_scenario_goes_on_in_a_fresh_environment_of_another_seed(name, steps_before):
    env, td, actions = played(name, steps_before)
    state, stream = saved_and_loaded(simulator_state(env), vmas_rng_state())
    assert_goes_on(name, td, state, stream, actions, steps(env, td, actions))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_state_of_an_earlier_version_without_numbers_and_references_goes_on(name):
    env, td, actions = played(f"vmas/{name}", 2)
    state = {path: saved for path, saved in simulator_state(env).items() if path.startswith(("simulator", "transform"))}
    stream = vmas_rng_state()
    assert_goes_on(f"vmas/{name}", td, state, stream, actions, steps(env, td, actions), seeds=SEEDS[:1])


def test_a_path_of_an_earlier_version_through_a_reference_is_taken():
    env = make_env("vmas/navigation", num_envs=3, seed=0)
    state = simulator_state(env)
    goal = env.base_env._env.agents[0].goal
    place = env.base_env._env.world.landmarks.index(goal)
    moved = state.pop(f"simulator/scenario/_world/_landmarks/{place}/_state/_pos") + 1.0
    load_simulator_state(env, {**state, "simulator/scenario/_world/_agents/0/_goal/_state/_pos": moved})
    assert torch.equal(goal.state.pos, moved)


def test_a_reference_to_a_landmark_that_is_not_there_is_refused():
    state = simulator_state(make_env("vmas/simple_push", num_envs=3))
    state["entity/scenario/_world/_agents/0/_goal"] = torch.tensor(99)
    with pytest.raises(UserError, match="no entity/scenario/_world/_agents/0/_goal to bring back: made with other"):
        load_simulator_state(make_env("vmas/simple_push", num_envs=3), state)


def test_the_history_of_x_comes_back_where_the_environment_is_wrapped_once_more():
    def wrapped():
        env = make_env("vmas/hunt", num_envs=3, seed=0)
        return TransformedEnv(env, RewardScaling(0.0, 0.1, in_keys=[("agents", "reward")]), auto_unwrap=False)

    env = wrapped()
    td = env.rollout(4, break_when_any_done=False)[:, -1]["next"].exclude(("agents", "reward"))
    state, stream = simulator_state(env), vmas_rng_state()
    actions = [env.full_action_spec["agents", "action"].rand() for _ in range(3)]
    expected = steps(env, td, actions)
    other = wrapped()
    other.reset()
    load_simulator_state(other, saved_and_loaded(state)[0])
    set_vmas_rng_state(stream)
    for found, known in zip(steps(other, td, actions), expected):
        assert (found == known).all()
    with pytest.raises(UserError, match=r"no transform/base_env/"):  # one wrapper less
        load_simulator_state(make_env("vmas/hunt", num_envs=3, seed=0), state)
