"""The VMAS environment: names, limits, seeds, the true state, the random stream, the simulator's snapshot."""

from __future__ import annotations

import copy
import io
import random

import numpy as np
import pytest
import torch
import vmas
from torchrl.envs.libs.vmas import VmasEnv

from globediff_torchrl.envs import (
    available_envs,
    describe_hidden,
    load_simulator_state,
    make_env,
    preserve_vmas_rng,
    set_vmas_rng_state,
    simulator_state,
    vmas_rng_state,
)
from globediff_torchrl.envs.vmas import StateVmasEnv, scenarios
from globediff_torchrl.errors import UserError
from globediff_torchrl.layout import Feature


def follow(env, td, actions):
    """The tensordicts of one step for each action, with resets, stacked in time."""
    td, steps = td.exclude(("agents", "reward")).clone(), []
    for action in actions:
        td["agents", "action"] = action
        step, td = env.step_and_maybe_reset(td)
        steps.append(step)
    return torch.stack(steps, dim=1)


def random_actions(env, count, seed=0):
    torch.manual_seed(seed)
    return [env.full_action_spec["agents", "action"].rand() for _ in range(count)]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"did you mean 'vmas/hunt'\? Known: vmas/relay, vmas/trilateration"):
        make_env("vmas/hnt")
    with pytest.raises(UserError, match="Unknown environment 'hunt'"):
        make_env("hunt")
    assert "vmas/balance" in available_envs()


def test_an_unknown_aux_lists_the_known_ones():
    with pytest.raises(UserError, match="Known: history, joint, joint_history, None"):
        make_env("vmas/hunt", aux="histroy")


def test_an_unknown_hidden_feature_lists_the_known_ones():
    with pytest.raises(UserError, match=r"Known: agent\.position, agent\.velocity, target\.offset, target\.range"):
        make_env("vmas/hunt", hide=["target.ofset"])


@pytest.mark.parametrize("name", ["diff_drive", "simple_speaker_listener"])
def test_actions_of_different_sizes_are_refused_in_words(name):
    with pytest.raises(UserError, match="actions of different sizes"):
        make_env(f"vmas/{name}", num_envs=1)


def test_dictionary_observations_are_refused_in_words():
    with pytest.raises(UserError, match="only flat tensors are handled"):
        make_env("vmas/football", num_envs=1, dict_obs=True)


def test_the_task_says_what_it_is():
    task = make_env("vmas/hunt", num_envs=1).task
    assert (task.name, task.n_agents, task.max_steps) == ("vmas/hunt", 2, 60)
    assert (task.aux, task.aux_dim) == ("joint_history", 58)
    assert task.hidden == ("agents.target.offset",)
    assert describe_hidden(task) == (
        "vmas/hunt hides agents.target.offset (2 of the 7 numbers of an observation). The state is inferred from "
        "x = joint_history."
    )
    bare = make_env("vmas/hunt", num_envs=1, hide=None, aux=None, continuous_actions=False, max_steps=None)
    assert bare.task.hidden == () and bare.task.aux_dim == 0 and bare.task.max_steps is None
    assert ("agents", "aux_observation") not in bare.observation_spec.keys(True, True)
    assert describe_hidden(bare.task) == "vmas/hunt hides no feature of the observation."


def test_balance_sensors_hides_from_each_agent_what_the_others_sense():
    env = make_env("vmas/balance_sensors", num_envs=2)
    observation = env.rollout(5)["next", "agents", "observation"]
    seen = [set(range(4)) | own for own in ({4, 5, 10, 11}, {6, 7, 12, 13, 14, 15}, {8, 9})]
    for i in range(3):
        hidden = [k for k in range(16) if k not in seen[i]]
        assert (observation[:, :, i, hidden] == 0).all()
        assert (observation[:, :, i, sorted(seen[i] & {4, 6, 8})] != 0).all()


def test_a_time_limit_is_truncated_and_not_terminated():
    rollout = make_env("vmas/hunt", num_envs=3, max_steps=5).rollout(10, break_when_any_done=False)["next"]
    assert rollout["truncated"][0, :, 0].tolist() == ([False] * 4 + [True]) * 2
    assert not rollout["terminated"].any()
    assert (rollout["done"] == rollout["truncated"]).all()


def test_the_end_of_a_task_is_terminated_and_not_truncated():
    env = make_env("vmas/transport", num_envs=2)
    td = env.reset()
    world = env.base_env._env.world
    goal, package = world.landmarks
    package.set_pos(goal.state.pos[0], batch_index=0)
    package.set_pos(goal.state.pos[1] + 0.6, batch_index=1)
    td["agents", "action"] = torch.zeros(2, 4, 2)
    after = env.step(td)["next"]
    for key in ("terminated", "done", "success"):
        assert after[key].flatten().tolist() == [True, False]
    assert not after["truncated"].any()


def test_the_state_under_next_is_the_terminal_one_and_not_the_one_after_the_reset():
    env = make_env("vmas/hunt", num_envs=3, max_steps=4)
    rollout = env.rollout(4)
    place = env.base_env._env.world.agents[0].state.pos  # nothing has been reset yet
    torch.testing.assert_close(rollout["next", "state"][:, -1, :2], place, rtol=0, atol=0)
    on = make_env("vmas/hunt", num_envs=3, max_steps=4).rollout(6, break_when_any_done=False)
    assert not torch.isclose(on["next", "state"][:, 3], on["state"][:, 4]).all()
    torch.testing.assert_close(on["next", "state"][:, 2], on["state"][:, 3], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["balance", "navigation", "dispersion", "wheel", "football", "simple_tag"])
def test_the_fast_step_gives_what_torchrl_gives(name):
    """Observations, rewards and ends are those of TorchRL's own VmasEnv, bit by bit, resets included."""
    ours = StateVmasEnv(name, num_envs=3, seed=1)
    actions = random_actions(ours, 60)
    mine = follow(ours, ours.reset(), actions)
    names = [agent.name for agent in ours._env.agents]
    theirs = VmasEnv(name, num_envs=3, seed=1, group_map={"agents": names})
    yours = follow(theirs, theirs.reset(), actions)
    assert (mine["next", "done"] == yours["next", "done"]).all()
    assert (mine["next", "agents", "reward"] == yours["next", "agents", "reward"]).all()
    width = [theirs.observation_space[i].shape[0] for i in range(len(names))]
    for i, size in enumerate(width):
        expected = torch.stack([yours[:, t]["next", "agents"][:, i]["observation"] for t in range(60)], dim=1)
        assert (mine["next", "agents", "observation"][:, :, i, :size] == expected).all()
        assert not mine["next", "agents", "observation"][:, :, i, size:].any()


def test_infos_are_dropped():
    assert ("agents", "info", "pos_rew") not in make_env("vmas/balance", num_envs=2).rollout(2).keys(True)


def test_one_seed_gives_one_rollout_and_another_seed_another():
    def rollout(seed):
        env = make_env("vmas/balance", num_envs=4, seed=seed)
        return follow(env, env.reset(), random_actions(env, 60))

    one, again, other = rollout(5), rollout(5), rollout(6)
    assert (one == again).all()
    assert not (one["state"] == other["state"]).all()


def test_set_seed_repeats_a_rollout():
    env = make_env("vmas/hunt", num_envs=2)
    env.set_seed(7)
    first = env.reset()["state"]
    assert not torch.equal(env.reset()["state"], first)
    env.set_seed(7)
    assert torch.equal(env.reset()["state"], first)


def test_evaluation_leaves_the_training_stream_alone():
    def training(evaluate):
        env = make_env("vmas/hunt", num_envs=2, seed=3)
        first = env.rollout(3)
        if evaluate:
            with preserve_vmas_rng():
                make_env("vmas/gates", num_envs=2, seed=1_000).rollout(5)
        return torch.cat([first["state"][:, 0], env.reset()["state"]])

    undisturbed = training(evaluate=False)
    assert torch.equal(training(evaluate=True), undisturbed)

    env = make_env("vmas/hunt", num_envs=2, seed=3)
    env.rollout(3)
    make_env("vmas/gates", num_envs=2, seed=1_000)
    assert not torch.equal(env.reset()["state"], undisturbed[2:]), "VMAS keeps a stream an env: preserve is not needed"


def test_the_stream_is_given_back_when_an_evaluation_fails():
    before = vmas_rng_state()
    with pytest.raises(ZeroDivisionError), preserve_vmas_rng():
        make_env("vmas/hunt", num_envs=2, seed=9)
        raise ZeroDivisionError
    assert all(torch.equal(value, before[key]) for key, value in vmas_rng_state().items())


def test_environments_leave_the_callers_generators_alone():
    env = make_env("vmas/gates", num_envs=2)
    action = random_actions(env, 1)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    follow(env, env.reset(), action)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_the_stream_survives_a_safe_torch_load():
    env = make_env("vmas/hunt", num_envs=2, seed=0)
    file = io.BytesIO()
    torch.save(vmas_rng_state(), file)
    first = env.reset()["state"]
    file.seek(0)
    set_vmas_rng_state(torch.load(file, weights_only=True))
    assert torch.equal(env.reset()["state"], first)
    # numpy's and python's streams too, for the scenarios that draw from them
    set_vmas_rng_state(vmas_rng_state())
    state = vmas.simulator.environment.Environment.vmas_random_state
    np.random.RandomState().set_state(state[1]), random.Random().setstate(state[2])


@pytest.mark.parametrize("name", ["hunt", "compass", "gates", "balance_sensors", "football", "discovery", "dropout"])
def test_a_snapshot_brings_the_simulator_back_exactly(name):
    env = make_env(f"vmas/{name}", num_envs=3, seed=2, max_steps=12)
    td = env.rollout(7, break_when_any_done=False)[:, -1]["next"]
    file = io.BytesIO()
    torch.save((simulator_state(env), vmas_rng_state()), file)
    file.seek(0)
    saved, stream = torch.load(file, weights_only=True)
    actions = random_actions(env, 10)  # beyond the time limit: resets draw from the stream
    first = follow(env, td, actions)

    load_simulator_state(env, saved)
    set_vmas_rng_state(stream)
    assert (follow(env, td, actions) == first).all()

    other = make_env(f"vmas/{name}", num_envs=3, seed=99, max_steps=12)
    other.reset()
    load_simulator_state(other, saved)
    set_vmas_rng_state(stream)
    assert (follow(other, td, actions) == first).all()


def test_a_snapshot_is_a_copy():
    env = make_env("vmas/hunt", num_envs=2)
    env.rollout(2)
    saved = simulator_state(env)
    copy = {path: tensor.clone() for path, tensor in saved.items()}
    load_simulator_state(env, saved)
    env.rollout(5)
    assert all(torch.equal(saved[path], copy[path]) for path in saved)


def test_a_snapshot_of_another_size_or_kind_is_refused():
    saved = simulator_state(make_env("vmas/hunt", num_envs=2))
    with pytest.raises(UserError, match="made with other arguments"):
        load_simulator_state(make_env("vmas/hunt", num_envs=3), saved)


def test_success_is_false_at_the_start_and_true_where_it_should_be():
    env = make_env("vmas/hunt", num_envs=2)
    td = env.reset()
    world = env.base_env._env.world
    for agent in world.agents:
        agent.set_pos(world.landmarks[0].state.pos[0], batch_index=0)
        agent.set_pos(world.landmarks[0].state.pos[1] + 0.3, batch_index=1)
    td["agents", "action"] = torch.zeros(2, 2, 2)
    assert env.step(td)["next", "success"].flatten().tolist() == [True, False]


def hidden_bit(**returns):
    """An environment of hunt in which the optional methods of the scenario return what is given."""
    methods = {name: (lambda self, value=value: value(self)) for name, value in returns.items()}
    own = type("Own", (scenarios.Hunt,), methods)
    return StateVmasEnv(own(), scenario_name="hunt", num_envs=3)


BIT = Feature("team", "bit", "flag")
PLACE = Feature("team", "place", "other", 2)


@pytest.mark.parametrize(
    ("method", "returned", "says"),
    [
        ("state_features", [BIT], "got a Feature in it"),
        ("state_features", {"bit": torch.ones(3, 1)}, "got a dict in it"),
        ("state_features", None, "got a NoneType in it"),
        ("state_features", [(BIT, torch.ones(3))], r"got a tensor \[3\] for team.bit of size 1"),
        ("state_features", [(PLACE, torch.ones(3, 1))], r"got a tensor \[3, 1\] for team.place of size 2"),
        ("state_features", [(BIT, torch.ones(1, 1))], r"got a tensor \[1, 1\] for team.bit"),
        (
            "state_features",
            [(BIT, torch.ones(3, 2)), (PLACE, torch.ones(3, 1))],
            r"a list of \(Feature, tensor \[3, size\]\), got a tensor \[3, 2\] for team.bit of size 1",
        ),
        ("state_features", [(BIT, 1.0)], "got a float for team.bit"),
        ("target_features", None, r"a list of \(Feature, tensor \[3, size\] or \[3, 2, size\]\), got a NoneType in it"),
        ("target_features", [(BIT, torch.ones(3))], r"got a tensor \[3\] for team.bit of size 1"),
        ("target_features", [(PLACE, torch.ones(3, 1, 2))], r"got a tensor \[3, 1, 2\] for team.place of size 2"),
        ("target_features", [], r"at least one \(Feature, tensor\), got none: leave the method away"),
        ("observation_features", [("agent", "position")], r"a list of Feature, got \[\('agent', 'position'\)\]"),
        ("observation_features", PLACE, r"a list of Feature, got Feature\(entity='team'"),
        ("state_entities", ["agent_0"], "a list of VMAS entities, got 'agent_0' in it: return the entities themselves"),
        ("state_entities", None, "a list of VMAS entities, got None"),
        ("success", True, r"a bool tensor \[3\], one an environment, got a bool"),
        ("success", torch.ones(3, 2), r"a bool tensor \[3\], one an environment, got a tensor \[3, 2\]"),
    ],
)
def test_what_an_optional_method_returns_is_checked_in_words(method, returned, says):
    with pytest.raises(UserError, match=rf"{method}\(\) of hunt must return .*{says}"):
        hidden_bit(**{method: lambda self: returned})


def test_facts_and_success_of_another_dtype_come_out_as_the_specs_say():
    env = hidden_bit(
        state_features=lambda self: [(BIT, torch.ones(3, 1, dtype=torch.float64)), (PLACE, torch.zeros(3, 2) > 0)],
        state_entities=lambda self: self.world.agents,
        success=lambda self: torch.ones(3),
    )
    rollout = env.rollout(2)
    assert env.state_layout.names[-2:] == ("team.bit", "team.place")
    assert rollout["state"][..., -3:].unique(dim=1).squeeze(1).tolist() == [[1.0, 0.0, 0.0]] * 3
    for td in (env.reset(), rollout[:, 0]["next"]):
        assert td["state"].dtype == torch.float32 and td["success"].dtype == torch.bool


def test_a_copied_environment_asks_its_own_world_whether_it_is_solved():
    """Stock scenarios are asked through a function that was bound to the original's."""
    env = make_env("vmas/dropout", num_envs=64, seed=0)
    env.reset()
    ends = copy.deepcopy(env).rollout(100, break_when_any_done=False)["next"]
    assert ends["terminated"].any() and torch.equal(ends["success"], ends["terminated"])  # on dropout they are one
