"""Evaluation: whole episodes, seeds of its own, training undisturbed, errors of the inference with known answers."""

from __future__ import annotations

import pytest
import torch
from recorded_env import Recorded
from skirmish import Skirmish
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.envs import SerialEnv

from globediff_torchrl import GlobeDiff, make_actor, make_env, wrap_env
from globediff_torchrl import keys as k
from globediff_torchrl.envs import vmas_rng_state
from globediff_torchrl.evaluation.episodes import (
    episode_metrics,
    evaluate,
    first_episodes,
    run_episodes,
    state_errors,
)
from globediff_torchrl.random_streams import preserve_rng


@pytest.fixture
def env_and_policy():
    torch.manual_seed(0)
    env = make_env("vmas/hunt", num_envs=6, max_steps=8)
    model = GlobeDiff.from_env(env, preset="fast", width=16)
    return env, TensorDictSequential(model, make_actor(env, model, gain=1.0))


# ------------------------------------------------------------------------------------------------- hand-made rollouts
def rollout_by_hand():
    """Three environments, five steps: ends at step 2 and 5; at step 3; never."""
    done = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool).unsqueeze(-1)
    reward = torch.tensor([[1.0, 2, 7, 7, 7], [0, 0, 5, 9, 9], [1, 1, 1, 1, 1]])
    returns = torch.stack([reward, 3 * reward], -1).cumsum(1)  # the second agent gets three times as much
    success = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool).unsqueeze(-1)
    team = TensorDict({"episode_reward": returns.unsqueeze(-1)}, (3, 5, 2))
    return TensorDict({"next": TensorDict({"done": done, "success": success, "agents": team}, (3, 5))}, (3, 5))


def test_the_first_episode_lasts_to_its_end_and_no_further():
    mask = first_episodes(rollout_by_hand())
    assert mask.long().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_the_metrics_are_those_of_the_first_episode_averaged_over_agents():
    metrics = episode_metrics(rollout_by_hand())
    assert metrics["return"].tolist() == [6.0, 10.0, 10.0]  # 3, 5 and 5, times the mean of 1 and 3
    assert metrics["length"].tolist() == [2.0, 3.0, 5.0]
    assert metrics["success"].tolist() == [0.0, 1.0, 0.0]  # what came after the end does not count


def test_without_a_success_there_is_none():
    rollout = rollout_by_hand()
    del rollout["next", "success"]
    assert "success" not in episode_metrics(rollout)


# --------------------------------------------------------------------------------------------------- state errors
def inferred(state, sample=None, mean=None):
    """One environment, ``T`` steps, one agent."""
    t = len(state)
    given = {"inferred_state": sample, "inferred_mean": mean}
    team = {name: value.reshape(1, t, 1, -1) for name, value in given.items() if value is not None}
    return TensorDict({"state": state.unsqueeze(0), "agents": TensorDict(team, (1, t, 1))}, (1, t))


def test_the_truth_has_no_error_and_the_mean_state_has_error_one():
    state = torch.randn(50, 3) * torch.tensor([1.0, 100.0, 0.01]) + 5
    errors = state_errors(inferred(state, sample=state, mean=state.mean(0).expand_as(state)))
    assert errors["state_error_sample"] == 0
    assert errors["state_error_mean"] == pytest.approx(1.0, abs=1e-4)


def test_an_exact_posterior_sample_errs_twice_as_much_as_the_posterior_mean():
    torch.manual_seed(0)
    mean = 2.0 * torch.randn(40_000, 2)
    state, sample = mean + torch.randn_like(mean), mean + torch.randn_like(mean)
    errors = state_errors(inferred(state, sample=sample, mean=mean))
    assert errors["state_error_mean"] == pytest.approx(1 / 5, rel=0.03)  # noise 1 of a variance of 4 + 1
    assert errors["state_error_sample"] == pytest.approx(2 / 5, rel=0.03)


def test_constant_dimensions_and_masked_steps_do_not_count():
    state = torch.tensor([[0.0, 7.0], [2.0, 7.0], [100.0, 7.0]])
    wrong = state + torch.tensor([[1.0, 50.0], [1.0, 50.0], [77.0, 50.0]])
    mask = torch.tensor([[True, True, False]])
    assert state_errors(inferred(state, sample=wrong), mask) == {"state_error_sample": 1.0}  # 1 of a variance of 1


def test_nothing_inferred_nothing_reported():
    assert state_errors(inferred(torch.randn(5, 2))) == {}
    assert state_errors(inferred(torch.ones(5, 2), sample=torch.ones(5, 2))) == {}


def test_a_policy_is_evaluated_in_evaluation_mode_and_gets_back_what_it_had(env_and_policy):
    env, policy = env_and_policy
    policy.train()
    policy[0].eval()
    seen = []
    policy.register_forward_pre_hook(lambda module, _: seen.append([part.training for part in module.modules()]))
    run_episodes(env, policy, "stochastic", seed=5, max_steps=2)
    assert len(seen) == 2 and not any(map(any, seen))
    assert policy.training and policy[1].training and not policy[0].training


# ------------------------------------------------------------------------------------------------------------- seeds
@pytest.mark.parametrize("mode", ["deterministic", "stochastic"])
def test_two_evaluations_of_one_policy_are_equal_and_another_seed_differs(env_and_policy, mode):
    env, policy = env_and_policy
    one = run_episodes(env, policy, mode, seed=5, max_steps=8)
    torch.manual_seed(99)
    env.rollout(3)
    two, other = (run_episodes(env, policy, mode, seed=seed, max_steps=8) for seed in (5, 6))
    for key in ("state", k.ACTION, k.INFERRED_STATE):
        assert torch.equal(one[key], two[key])
    assert not torch.equal(one["state"], other["state"])


def test_the_modes_differ_in_their_actions_alone_at_the_first_step(env_and_policy):
    env, policy = env_and_policy
    one, two = (run_episodes(env, policy, mode, seed=5, max_steps=2) for mode in ("deterministic", "stochastic"))
    assert torch.equal(one["state"][:, 0], two["state"][:, 0]) and not torch.equal(one[k.ACTION], two[k.ACTION])


def test_an_evaluation_leaves_the_random_streams_as_they_were(env_and_policy):
    env, policy = env_and_policy
    before, world = torch.get_rng_state(), vmas_rng_state()
    evaluate(env, policy, seed=3, max_steps=8)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, vmas_rng_state()[name]) for name, value in world.items())


def test_the_stream_comes_back_after_an_error_too():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), preserve_rng(1):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(before, torch.get_rng_state())


def test_the_summary_is_the_mean_over_episodes_with_its_standard_error(env_and_policy):
    env, policy = env_and_policy
    results = evaluate(env, policy, seed=3, max_steps=8, modes=("stochastic",))
    returns = episode_metrics(run_episodes(env, policy, "stochastic", 3, 8))["return"]
    assert results["stochastic/return"] == pytest.approx(float(returns.mean()))
    assert results["stochastic/return_sem"] == pytest.approx(float(returns.std()) / 6**0.5)
    assert {"stochastic/success", "stochastic/state_error_mean", "stochastic/state_error_sample"} <= set(results)
    assert not any(name.startswith("deterministic") for name in results)


def test_one_episode_has_no_standard_error_but_a_return(env_and_policy):
    policy, env = env_and_policy[1], make_env("vmas/hunt", num_envs=1, max_steps=8)
    results = evaluate(env, policy, seed=3, max_steps=8, modes=("deterministic",))
    assert torch.isfinite(torch.tensor(results["deterministic/return"]))


def test_evaluating_every_iteration_changes_nothing_of_the_training(fast_trainer, progress, tmp_path):
    teams = []
    for folder, every in (("never", 0), ("always", 1)):
        trainer = fast_trainer("globediff", f"evaluation.every_frames={every}", iterations=3, folder=folder)
        trainer.train()
        teams.append(trainer.team.policy.state_dict())
    never, always = progress(tmp_path / "never"), progress(tmp_path / "always")
    assert [row["return"] for row in never] == [row["return"] for row in always]
    assert all(torch.equal(value, teams[1][name]) for name, value in teams[0].items())
    assert always[0]["eval/deterministic/return"] and "eval/deterministic/return" not in never[0]
    assert always[-1]["final/deterministic/return"] == never[-1]["final/deterministic/return"]


def test_evaluations_come_after_so_many_frames_and_a_last_one_on_its_own_episodes(fast_trainer, progress, tmp_path):
    options = ["evaluation.every_frames=160", "evaluation.episodes=2", "evaluation.final_episodes=3"]
    fast_trainer("mappo", *options, iterations=5).train()
    rows = progress(tmp_path / "run")
    assert [bool(row["eval/stochastic/return"]) for row in rows] == [False, True, False, True, False]
    assert [bool(row["final/stochastic/return"]) for row in rows] == [False] * 4 + [True]


def test_a_target_of_each_agent_is_compared_with_that_agents_inference():
    torch.manual_seed(0)
    own, state = torch.randn(1, 50, 2, 3), torch.randn(1, 50, 4)
    team = TensorDict({"inferred_state": own, "inferred_mean": own.flip(2), "target_state": own}, (1, 50, 2))
    errors = state_errors(TensorDict({"state": state, "agents": team}, (1, 50)), target=("agents", "target_state"))
    assert errors["state_error_sample"] == 0
    assert errors["state_error_mean"] == pytest.approx(2.0, rel=0.3)  # the other agent's: independent of one's own


def test_what_is_inferred_for_the_dead_is_no_error():
    torch.manual_seed(0)
    state, alive = torch.randn(1, 50, 4), torch.rand(1, 50, 2, 1) < 0.5
    inferred = torch.where(alive, state.unsqueeze(2), 100.0)
    team = TensorDict({"inferred_state": inferred, "active_mask": alive}, (1, 50, 2))
    assert state_errors(TensorDict({"state": state, "agents": team}, (1, 50))) == {"state_error_sample": 0.0}


def played(returns, crashed):
    """Episodes of two steps; those that crashed had inferred nonsense."""
    b = len(returns)
    last = torch.tensor([False, True]).expand(b, 2).unsqueeze(-1)
    gone = torch.tensor(crashed).reshape(b, 1, 1)
    rewards = torch.tensor(returns).reshape(b, 1, 1, 1).expand(b, 2, 1, 1)
    after = {"done": last, "crashed": last & gone, "agents": TensorDict({"episode_reward": rewards}, (b, 2))}
    state = torch.arange(2.0 * b).reshape(b, 2, 1)
    inferred = TensorDict({"inferred_state": (state + 1e3 * gone).unsqueeze(-2)}, (b, 2, 1))
    return TensorDict({"next": TensorDict(after, (b, 2)), "state": state, "agents": inferred}, (b, 2))


def test_rounds_are_one_set_of_episodes_and_those_that_crashed_are_in_no_mean():
    env = Recorded({5: played([1.0, 100.0], [False, True]), 6: played([2.0, 3.0], [False, False])})
    results = evaluate(env, None, seed=5, max_steps=2, modes=("stochastic",), rounds=2)
    assert results["stochastic/return"] == pytest.approx(2.0)
    assert results["stochastic/return_sem"] == pytest.approx(3**-0.5)
    assert results["stochastic/crashed"] == 0.25
    assert results["stochastic/state_error_sample"] == 0.0


def test_where_every_episode_crashed_there_is_no_return():
    env = Recorded({0: played([1.0, 2.0], [True, True])})
    assert evaluate(env, None, seed=0, max_steps=2, modes=("stochastic",)) == {"stochastic/crashed": 1.0}


def test_an_evaluation_counts_the_environments_of_all_batch_dimensions():
    env = wrap_env(SerialEnv(2, lambda: Skirmish(3)), no_op=0, max_steps=5)
    policy = make_actor(env, reads=None)
    rollout = run_episodes(env, policy, "stochastic", seed=3, max_steps=5)
    assert env.batch_size == (2, 3) and rollout.shape == (6, 5)
    returns = rollout["next", "agents", "reward"].sum(1).mean((1, 2))
    results = evaluate(env, policy, seed=3, modes=("stochastic",))
    assert results["stochastic/return"] == pytest.approx(float(returns.mean()))
    assert results["stochastic/return_sem"] == pytest.approx(float(returns.std()) / 6**0.5)


def test_deterministic_episodes_take_the_mode_of_each_action_and_stochastic_ones_a_sample():
    env = make_env("vmas/hunt", num_envs=6, max_steps=8, aux=None)
    policy = make_actor(env, reads=None)
    modes = {mode: run_episodes(env, policy, mode, seed=3, max_steps=8) for mode in ("deterministic", "stochastic")}
    for mode, rollout in modes.items():
        with torch.no_grad():
            best = policy.get_dist(rollout).deterministic_sample
        equal = torch.isclose(rollout[k.ACTION], best, atol=1e-5)
        assert equal.all() if mode == "deterministic" else not equal.any(-1).all()


def test_what_is_inferred_behind_the_end_of_the_first_episode_is_not_counted():
    rollout = played([1.0, 2.0], [False, False])
    state = torch.cat([rollout["state"], torch.full((2, 3, 1), 9.0)], 1)
    after = torch.cat([rollout["next"], rollout["next"][:, :1].expand(2, 3)], 1)
    inferred = TensorDict({"inferred_state": torch.where(state == 9, 1e3, state).unsqueeze(-2)}, (2, 5, 1))
    longer = TensorDict({"next": after, "state": state, "agents": inferred}, (2, 5))
    results = evaluate(Recorded({0: longer}), None, seed=0, max_steps=5, modes=("stochastic",))
    assert results["stochastic/state_error_sample"] == 0.0
