"""MAPPO's update: ratio, advantages, minibatches, number of optimiser steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_loss import SETTINGS, StateAsValue, drawn, loss_of
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, TensorDictSequential

from globediff_torchrl import GlobeDiff, make_actor, make_critic, make_env
from globediff_torchrl import keys as k
from globediff_torchrl.errors import UserError
from globediff_torchrl.training.mappo import Advantages, BatchValueNorm, Minibatches, make_loss, normalize
from globediff_torchrl.training.true_inferences import update_reads_truth


# ---------------------------------------------------------------------------------------------------------- advantages
def five_steps():
    """One environment: a truncation after the second step, a termination after the fourth, then cut off."""

    def column(*values, dtype=torch.float32):
        return torch.tensor(values, dtype=dtype).reshape(1, 5, -1)

    reward = torch.tensor([[1.0, 0], [0, 1], [2, 0], [-1, 1], [0.5, 0]]).reshape(1, 5, 2, 1)
    truncated = column(False, True, False, False, False, dtype=torch.bool)
    terminated = column(False, False, False, True, False, dtype=torch.bool)
    after = {
        "state": column(2.0, 10, 4, 7, 6),  # 10 is the true last state, 3 below the first of the next episode
        "done": truncated | terminated,
        "truncated": truncated,
        "terminated": terminated,
        "agents": TensorDict({"reward": reward}, (1, 5, 2)),
    }
    before = {"state": column(1.0, 2, 3, 4, 5), "agents": TensorDict({}, (1, 5, 2))}
    return TensorDict({**before, "next": TensorDict(after, (1, 5))}, (1, 5))


# delta_0 = 1 + .9 * 2 - 1 = 1.8     delta_1 = 0 + .9 * 10 - 2 = 7 (bootstrapped from the true last state)
# delta_2 = 2 + .9 * 4 - 3 = 2.6     delta_3 = -1 - 4 = -5 (nothing after a termination)
# delta_4 = .5 + .9 * 6 - 5 = .9     gamma lambda = .72: A_0 = 1.8 + .72 * 7, A_1 = 7, A_2 = 2.6 - .72 * 5, A_3 = -5,
# A_4 = .9; likewise for the second agent
BY_HAND = torch.tensor([[6.84, 6.56], [7.0, 8.0], [-1.0, -1.56], [-5.0, -3.0], [0.9, 0.4]]).reshape(1, 5, 2, 1)


def test_gae_bootstraps_a_truncation_and_not_a_termination():
    critic = TensorDictModule(StateAsValue(), in_keys=["state"], out_keys=[k.STATE_VALUE])
    batch = Advantages(loss_of(make_env("vmas/hunt", num_envs=2), critic))(five_steps())
    values = torch.arange(1.0, 6.0).reshape(1, 5, 1, 1)
    torch.testing.assert_close(batch[k.VALUE_TARGET], BY_HAND + values)
    torch.testing.assert_close(batch[k.ADVANTAGE], (BY_HAND - BY_HAND.mean()) / BY_HAND.std())
    assert not batch[k.ADVANTAGE].requires_grad


def test_advantages_are_standardised_over_batch_and_agents_by_the_living():
    advantage = torch.tensor([[1.0, 100.0], [3.0, 5.0]]).unsqueeze(-1)
    active = torch.tensor([[True, False], [True, True]]).unsqueeze(-1)
    living = normalize(advantage, active)[active]
    torch.testing.assert_close(living, torch.tensor([-1.0, 0.0, 1.0]))  # 1, 3, 5: mean 3, deviation 2
    torch.testing.assert_close(normalize(advantage[1:], None).flatten(), torch.tensor([-1.0, 1.0]) / 2**0.5)


def test_equal_advantages_become_zero_and_not_nan():
    assert (normalize(torch.full((4, 2, 1), 3.0), None) == 0).all()


def test_what_the_dead_are_rewarded_with_changes_no_advantage_of_the_living(skirmish):
    loss = loss_of(skirmish)
    batch = drawn(skirmish, loss)
    batch[k.ACTIVE_MASK][:, :, -1] = False
    changed = batch.clone()
    changed["next", "agents", "reward"][:, :, -1] += 50.0
    one, two = (Advantages(loss)(data)[k.ADVANTAGE] for data in (batch, changed))
    torch.testing.assert_close(one[:, :, :-1], two[:, :, :-1])
    assert not torch.allclose(one, two)


def test_the_value_that_the_clip_compares_with_moves_with_the_norm(skirmish):
    """Before the first optimiser step the critic has not moved, so that the clip must find no change at all."""
    norm = BatchValueNorm(shape=1)
    loss = loss_of(skirmish, value_norm=norm)
    for _ in range(2):  # the norm moves most at the first batch, and from a sound estimate at the second
        batch = Advantages(loss)(drawn(skirmish, loss))
        with torch.no_grad():
            now = loss.critic_network(batch.clone())[k.STATE_VALUE]
        torch.testing.assert_close(norm.normalize(batch[k.STATE_VALUE]), norm.normalize(now), atol=1e-3, rtol=1e-3)


# -------------------------------------------------------------------------------------------------------------- ratio
def first_steps(trainer):
    """Trains, and records what the first optimisation step of each batch was to work on, before it."""
    stepper, seen = trainer.optimization_stepper, []
    step, per_batch = stepper.step, trainer.num_epochs * trainer.optim_steps_per_batch

    def recording(owner, sub_batch):
        if stepper.steps % per_batch == 0:
            with torch.no_grad():
                new = trainer.team.actor.get_dist(sub_batch).log_prob(sub_batch[k.ACTION])
                losses = trainer.loss_module(sub_batch.clone())
            seen.append({"ratio": (new - sub_batch[k.ACTION_LOG_PROB]).exp(), "batch": sub_batch.clone(), **losses})
        return step(owner, sub_batch)

    stepper.step = recording
    trainer.train()
    return seen


@pytest.mark.parametrize("algorithm", ["globediff", "mappo_joint"])
@pytest.mark.parametrize("continuous", ["true", "false"])
@pytest.mark.parametrize("update_input", ["inferred", "true"])
def test_the_ratio_is_one_before_the_first_step_on_a_batch(fast_trainer, algorithm, continuous, update_input):
    options = ["training.minibatches=1", "training.lr=3e-2", "state_model_update.steps=3"]
    choices = [f"env.continuous_actions={continuous}", f"training.update_input={update_input}"]
    seen = first_steps(fast_trainer(algorithm, *options, *choices, iterations=3))
    assert len(seen) == 3
    for record in seen:
        assert record["ratio"].shape == (80, 2)
        torch.testing.assert_close(record["ratio"], torch.ones(80, 2), atol=1e-5, rtol=0)
        assert record["clip_fraction"] == 0


@pytest.mark.parametrize(("given", "truth"), [(True, True), ("true", True), ("TRUE", True), ("inferred", False)])
def test_update_input_is_taken_as_yamls_bool_and_as_a_word(given, truth):
    assert update_reads_truth(given) is truth


def test_update_input_true_replaces_every_inference_by_the_true_state(fast_trainer):
    options = ["training.update_input=true", "training.minibatches=1", "algorithm.reads=mean_sample"]
    for record in first_steps(fast_trainer("globediff", *options, iterations=1)):
        batch, state = record["batch"], record["batch"]["state"].unsqueeze(-2)
        for key in (k.INFERRED_STATE, k.INFERRED_MEAN):
            torch.testing.assert_close(batch[key], state.expand_as(batch[key]))


def test_update_input_inferred_trains_on_what_the_rollout_inferred(fast_trainer):
    for record in first_steps(fast_trainer("globediff", "training.minibatches=1", iterations=1)):
        batch = record["batch"]
        assert not torch.allclose(batch[k.INFERRED_BLEND], batch["state"].unsqueeze(-2))


def test_the_ratio_of_masked_discrete_actions_is_one(skirmish):
    loss = loss_of(skirmish)
    batch = Advantages(loss)(drawn(skirmish, loss))
    with torch.no_grad():
        out = loss(batch)
    assert out["clip_fraction"] == 0 and out["kl_approx"].abs().max() < 1e-6
    living = batch[k.ADVANTAGE][batch[k.ACTIVE_MASK]]
    torch.testing.assert_close(out["loss_objective"], -living.mean(), atol=1e-5, rtol=0)  # ratio 1: the mean advantage


# ------------------------------------------------------------------------------------------------------------- steps
@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 2), (2, 5), (2, 4)])
def test_a_batch_takes_epochs_times_minibatches_optimiser_steps(fast_trainer, epochs, minibatches):
    trainer = fast_trainer("mappo", f"training.epochs={epochs}", f"training.minibatches={minibatches}")
    seen, sample = [], trainer.optimization_stepper.step

    def step(owner, sub_batch):
        seen.append(sub_batch["state"])
        return sample(owner, sub_batch)

    trainer.optimization_stepper.step = step
    trainer.train()
    steps = 2 * epochs * minibatches
    taken = {int(state["step"]) for state in trainer.optimization_stepper.optimizer.state.values()}
    assert taken == {steps} and len(seen) == steps
    for start in range(0, steps, minibatches):  # an epoch sees 80 states, none twice
        assert len(torch.cat(seen[start : start + minibatches]).unique(dim=0)) == 80


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12))
def test_each_epoch_sees_each_sample_once(frames, minibatches):
    frames *= minibatches
    env_loss = type("Loss", (), {})()
    env_loss.actor_network = env_loss.critic_network = TensorDictModule(torch.nn.Identity(), ["state"], ["same"])
    hook = Minibatches(env_loss, frames, minibatches)
    for _ in range(2):  # two batches of two epochs
        hook.extend(TensorDict({"state": torch.arange(frames).unsqueeze(-1)}, (frames,)))
        for _ in range(2):
            seen = torch.cat([hook.sample(None)["state"].flatten() for _ in range(minibatches)])
            assert seen.sort().values.tolist() == list(range(frames))


def test_a_batch_that_does_not_divide_is_refused_with_a_divisor(fast_trainer):
    with pytest.raises(UserError, match=r"minibatches=3 .* e.g. 2"):
        fast_trainer("mappo", "training.minibatches=3", iterations=1)


def test_minibatches_hold_what_the_update_reads_and_nothing_else(fast_trainer):
    seen = first_steps(fast_trainer("globediff", iterations=1))[0]["batch"]
    names = set(seen.keys(True, True)) - {"index"}
    assert "state" in names and k.ADVANTAGE in names and k.INFERRED_BLEND in names
    assert not any("next" in name for name in names) and k.AUX_OBSERVATION not in names


def test_what_is_logged_of_the_update_is_the_mean_over_all_its_steps(fast_trainer):
    trainer = fast_trainer("mappo", "training.epochs=3", "training.minibatches=2", iterations=2)
    stepper, taken = trainer.optimization_stepper, []
    step = stepper.step

    def recorded(*arguments):
        logged = step(*arguments)
        taken.append({name: float(value) for name, value in logged.items()})
        return logged

    stepper.step = recorded
    trainer.train()
    assert len(taken) == 2 * 3 * 2 and {"loss_critic", "kl_approx", "grad_norm_actor"} <= set(taken[0])
    for row, steps in zip(trainer.table.rows, (taken[:6], taken[6:])):
        for name in steps[0]:
            assert row[name] == pytest.approx(sum(one[name] for one in steps) / 6, rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("final_lr", [1.0, 0.25])
def test_the_learning_rate_falls_linearly_to_its_share(fast_trainer, final_lr):
    trainer = fast_trainer("mappo", "training.lr=0.01", f"training.final_lr={final_lr}", iterations=4)
    rates, group = [], trainer.optimization_stepper.optimizer.param_groups[0]
    trainer.register_op("post_steps", lambda: rates.append(group["lr"]))
    trainer.train()
    assert rates == pytest.approx([0.01 * (1 + (final_lr - 1) * passed / 4) for passed in range(4)])


def test_the_optimiser_steps_the_very_networks_that_act(fast_trainer):
    trainer = fast_trainer("mappo", iterations=1)
    groups = trainer.optimization_stepper.optimizer.param_groups
    for group, network in zip(groups, (trainer.team.actor, trainer.team.critic)):
        assert [id(parameter) for parameter in group["params"]] == [id(p) for p in network.parameters()]
    assert not trainer.loss_module.functional  # a functional loss swaps the parameters in and out at each call


def test_each_network_is_clipped_by_its_own_norm(fast_trainer):
    trainer = fast_trainer("mappo", "training.max_grad_norm=1e-3", "training.critic_lr=1e-4", iterations=1)
    optimizer, norms = trainer.optimization_stepper.optimizer, []
    step = optimizer.step

    def spying():
        for group in optimizer.param_groups:
            norms.append(torch.stack([p.grad.norm() for p in group["params"] if p.grad is not None]).norm())
        step()

    optimizer.step = spying
    trainer.train()
    torch.testing.assert_close(torch.stack(norms), torch.full((len(norms),), 1e-3), atol=1e-5, rtol=0)


def test_the_loss_takes_the_actor_alone(skirmish):
    """Of the whole policy TorchRL would say, at the first call, that a log-probability is lacking."""
    model = GlobeDiff.from_env(skirmish, width=16)
    actor, critic = make_actor(skirmish, model), make_critic(skirmish)
    with pytest.raises(UserError, match="expects the actor alone, as make_actor gives it, got a TensorDictSequential"):
        make_loss(TensorDictSequential(model, actor), critic, None, **SETTINGS)
    with pytest.raises(UserError, match=r"ProbabilisticTensorDictSequential that writes .*inferred_state"):
        make_loss(ProbabilisticTensorDictSequential(model, *actor), critic, None, **SETTINGS)
