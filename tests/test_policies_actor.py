"""The decentralised actor: legal actions, true probabilities, and nothing read that execution does not have."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from skirmish import Skirmish
from small_loss import SETTINGS
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import UnsqueezeTransform
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import GlobeDiff, UserError, make_actor, make_critic, make_env, make_state_model, wrap_env
from globediff_torchrl import keys as k
from globediff_torchrl.training.mappo import Advantages, make_loss

WITHOUT_STATE = ["globediff", "mappo", "mappo_joint", "regressor"]


@pytest.fixture
def hunt():
    return make_env("vmas/hunt", num_envs=4, seed=0, max_steps=8)


def drawn(env, policy, steps):
    """A rollout with sampled actions."""
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, policy, break_when_any_done=False)


def team_policy(env, algorithm: str, **model):
    torch.manual_seed(0)
    if algorithm == "mappo":
        return make_actor(env, reads=None)
    if algorithm == "mappo_joint":
        return make_actor(env, reads=None, inputs=[k.OBSERVATION, k.AUX_OBSERVATION, k.AGENT_ID])
    model = make_state_model(algorithm, env, width=16, **model)
    return TensorDictSequential(model, make_actor(env, model))


def test_continuous_actions_stay_within_their_bounds_and_reach_both_halves(hunt):
    actor = make_actor(hunt, reads=None, scale_init=5.0)
    torch.manual_seed(0)
    actions = drawn(hunt, actor, 8)["agents", "action"]
    low, high = hunt.full_action_spec[k.ACTION].space.low, hunt.full_action_spec[k.ACTION].space.high
    assert (actions >= low.unsqueeze(1)).all() and (actions <= high.unsqueeze(1)).all()
    assert actions.min() < 0.5 * low.min() and actions.max() > 0.5 * high.max()


def test_bounds_that_differ_between_agents_are_each_agents_own():
    class Uneven(Skirmish):
        """Continuous actions: agent i's reach from -1 to 2 + i."""

        def __init__(self):
            super().__init__()
            high = torch.arange(2.0, 5.0)[:, None].expand(*self.batch_size, 3, 1)
            action = Bounded(-torch.ones_like(high), high, high.shape)
            self.action_spec = Composite(agents=Composite(action=action, shape=high.shape[:2]), shape=high.shape[:1])

        def _step(self, tensordict):
            return super()._step(tensordict.set(k.ACTION, tensordict[k.ACTION].squeeze(-1)))

    env = wrap_env(Uneven(), max_steps=40, aux=None)
    actions = drawn(env, make_actor(env, reads=None), 40)[k.ACTION].squeeze(-1).flatten(0, 1)
    high = torch.tensor([2.0, 3.0, 4.0])
    assert (actions <= high).all() and (actions >= -1).all()
    assert (actions.amax(0) > high - 0.4).all() and (actions.amin(0) < -0.8).all()


@pytest.mark.parametrize("infinite", [False, True])
def test_actions_without_bounds_are_refused_with_the_spec_that_has_them(infinite):
    class Boundless(Skirmish):
        def __init__(self):
            super().__init__()
            shape = (*self.batch_size, 3, 1)
            action = Bounded(-torch.inf, torch.inf, shape) if infinite else Unbounded(shape)
            self.action_spec = Composite(agents=Composite(action=action, shape=shape[:2]), shape=shape[:1])

    env = wrap_env(Boundless(), aux=None)
    got = r"BoundedContinuous \[6, 3, 1\] with infinite bounds" if infinite else r"Unbounded\w* \[6, 3, 1\]"
    with pytest.raises(UserError, match=f"are bounded or categorical, got {got}: give the action spec .* finite ones"):
        make_actor(env, reads=None)


def test_first_actions_are_centred_and_the_same_scale_for_all(hunt):
    actor = make_actor(hunt, reads=None, scale_init=1.5)
    rollout = drawn(hunt, actor, 8)
    assert rollout["agents", "loc"].abs().max() < 0.2  # orthogonal gain .01
    torch.testing.assert_close(rollout["agents", "scale"], torch.full_like(rollout["agents", "scale"], 1.5))


def test_a_masked_categorical_never_draws_an_illegal_action(skirmish):
    torch.manual_seed(0)
    policy = team_policy(skirmish, "globediff")
    rollout = drawn(skirmish, policy, 40)
    mask, action, active = (rollout["agents", name] for name in ("action_mask", "action", "active_mask"))
    assert mask.gather(-1, action.unsqueeze(-1)).all()
    assert (action[~active[..., 0]] == 0).all() and (~active).any()
    assert set(action[active[..., 0]].tolist()) == {1, 2, 3}


def test_an_agent_without_a_legal_action_takes_any_and_changes_nothing_for_the_others(skirmish):
    torch.manual_seed(0)
    actor = make_actor(skirmish, reads=None)
    plain = skirmish.rollout(40, break_when_any_done=False).exclude(k.ACTION)
    stuck = plain.clone()
    stuck[k.ACTION_MASK][..., -1, :] = False
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        found = []
        for data in (plain, stuck):
            torch.manual_seed(1)
            with set_exploration_type(kind), torch.no_grad():
                found.append(actor(data.clone()))
        for key in (k.ACTION, k.ACTION_LOG_PROB):
            assert torch.equal(*(one[key][..., :-1] for one in found))
        assert found[1][k.ACTION_LOG_PROB].isfinite().all()
        assert kind == ExplorationType.DETERMINISTIC or found[1][k.ACTION][..., -1].unique().tolist() == [0, 1, 2, 3]
    loss = make_loss(actor, make_critic(skirmish), None, **SETTINGS)
    losses = loss(Advantages(loss)(skirmish.rollout(40, break_when_any_done=False).update(found[1])).reshape(-1))
    sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_an_illegal_action_has_no_probability_and_the_legal_ones_share_all(skirmish):
    actor = make_actor(skirmish, reads=None)
    data = drawn(skirmish, actor, 5)
    mask, distribution = data["agents", "action_mask"], actor.get_dist(data)
    log_prob = torch.stack([distribution.log_prob(torch.full(mask.shape[:-1], a)) for a in range(4)], -1)
    assert (log_prob[~mask] == -torch.inf).all() and torch.isfinite(log_prob[mask]).all()
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(mask.shape[:-1]))


@pytest.mark.parametrize("algorithm", WITHOUT_STATE)
def test_the_stored_log_probability_is_that_of_the_stored_action(hunt, algorithm):
    policy = team_policy(hunt, algorithm)
    rollout = drawn(hunt, policy, 8)
    actor = policy[-1] if algorithm in ("globediff", "regressor") else policy
    stored = rollout["agents", "action_log_prob"]
    assert stored.shape == rollout.batch_size + (2,)
    torch.testing.assert_close(actor.get_dist(rollout).log_prob(rollout["agents", "action"]), stored)


def test_the_stored_log_probability_of_discrete_actions_is_that_of_the_stored_action(skirmish):
    policy = team_policy(skirmish, "globediff")
    rollout = drawn(skirmish, policy, 5)
    recomputed = policy[-1].get_dist(rollout).log_prob(rollout["agents", "action"])
    torch.testing.assert_close(recomputed, rollout["agents", "action_log_prob"])


@pytest.mark.parametrize("algorithm", WITHOUT_STATE)
def test_the_true_state_is_no_input_and_nan_in_it_changes_no_action(hunt, algorithm):
    policy = team_policy(hunt, algorithm)
    assert "state" not in policy.in_keys
    clean = hunt.rollout(6).exclude(k.ACTION)
    poisoned = clean.clone()
    poisoned["state"] = torch.full_like(poisoned["state"], torch.nan)
    actions = []
    for data in (clean, poisoned):
        torch.manual_seed(3)
        with set_exploration_type(ExplorationType.RANDOM), torch.no_grad():
            actions.append(policy(data.clone())[k.ACTION])
    assert torch.isfinite(actions[1]).all() and torch.equal(*actions)


def test_the_oracle_alone_reads_the_state(hunt):
    model = make_state_model("oracle", hunt)
    assert "state" in TensorDictSequential(model, make_actor(hunt, model)).in_keys


@pytest.mark.parametrize("algorithm", WITHOUT_STATE)
def test_deterministic_actions_repeat_and_go_with_the_row_of_the_batch(hunt, algorithm):
    policy, data = team_policy(hunt, algorithm), hunt.rollout(6).reshape(-1)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        torch.manual_seed(1)
        first = policy(data.clone())[k.ACTION]
        torch.manual_seed(2)
        again = policy(data.clone())[k.ACTION]
        permuted = policy(data[order].clone())[k.ACTION]
    assert torch.equal(first, again)
    torch.testing.assert_close(permuted, first[order], atol=1e-6, rtol=0)


def test_random_actions_differ_between_draws(hunt):
    policy, data = team_policy(hunt, "globediff"), hunt.reset()
    with set_exploration_type(ExplorationType.RANDOM), torch.no_grad():
        first, second = policy(data.clone()), policy(data.clone())
    assert not torch.equal(first[k.ACTION], second[k.ACTION])
    assert not torch.equal(first[k.INFERRED_STATE], second[k.INFERRED_STATE])


def test_a_deterministic_action_is_the_mode_of_the_distribution(skirmish):
    actor = make_actor(skirmish, reads=None, gain=1.0)
    data = drawn(skirmish, actor, 5)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        actions = actor(data.clone())[k.ACTION]
    logits = data["agents", "logits"].masked_fill(~data["agents", "action_mask"], -torch.inf)
    assert torch.equal(actions, logits.argmax(-1))


def test_auto_reads_the_blend_where_there_is_a_mean_and_else_a_sample(hunt):
    centred = GlobeDiff.from_env(hunt, preset="fast", width=16)
    plain = GlobeDiff.from_env(hunt, preset="fast", width=16, center="none")
    inferred = {k.INFERRED_MEAN, k.INFERRED_STATE, k.INFERRED_BLEND}
    assert inferred & set(make_actor(hunt, centred).in_keys) == {k.INFERRED_BLEND}
    assert inferred & set(make_actor(hunt, plain).in_keys) == {k.INFERRED_STATE}


def test_an_untrained_actor_ignores_the_sample_beside_the_mean(hunt):
    model = GlobeDiff.from_env(hunt, preset="fast", width=16)
    policy = TensorDictSequential(model, make_actor(hunt, model, reads="mean_sample", gain=1.0))
    data = policy(hunt.reset())
    moved = data.clone()
    moved[k.INFERRED_STATE] += 3.0
    torch.testing.assert_close(policy[-1].get_dist(moved).loc, policy[-1].get_dist(data).loc)
    moved[k.INFERRED_MEAN] += 3.0
    assert not torch.allclose(policy[-1].get_dist(moved).loc, policy[-1].get_dist(data).loc)


def test_an_input_that_the_environment_lacks_is_named_with_its_fix():
    env = make_env("vmas/hunt", num_envs=2, aux=None)
    with pytest.raises(UserError, match=r"aux_observation.*pass aux="):
        make_actor(env, reads=None, inputs=[k.AUX_OBSERVATION])


def test_what_the_team_shares_alone_is_no_input_of_an_actor(hunt):
    with pytest.raises(UserError, match=r"at least one input of the agents' own.*'time'.*agent_id"):
        make_actor(hunt, reads=None, inputs=["time", "state"])
    assert make_actor(hunt, inputs=["time"])  # beside the inference, which is each agent's


@pytest.mark.parametrize("make", [partial(make_actor, reads=None), make_critic])
def test_an_input_of_more_dims_is_refused_with_its_shape(make):
    env = make_env("vmas/hunt", num_envs=3)
    env.append_transform(UnsqueezeTransform(-1, in_keys=[k.OBSERVATION], out_keys=[("agents", "wide")]))
    with pytest.raises(UserError, match=r"of shape \[\*B, n, d\] where \*B is \[3\], got \[3, 2, 7, 1\]: flatten it"):
        make(env, inputs=[("agents", "wide"), k.AGENT_ID])


def test_an_actor_counts_the_hypotheses_of_a_state_model_within_a_sequence(hunt):
    model = GlobeDiff.from_env(hunt, preset="fast", num_samples=3, width=16)
    front = TensorDictSequential(model, TensorDictModule(torch.neg, [k.INFERRED_BLEND], [("agents", "negative")]))
    actor = make_actor(hunt, front, reads="samples")
    assert hunt.rollout(2, TensorDictSequential(front, actor))["agents", "action"].isfinite().all()
