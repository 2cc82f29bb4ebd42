"""MAPPO's loss, term by term against numbers worked out by hand: the clips, the coefficients, the learning rates."""

from __future__ import annotations

import math

import pytest
import torch
from small_loss import StateAsValue, drawn, loss_of
from tensordict.nn import TensorDictModule

from globediff_torchrl import keys as k
from globediff_torchrl import make_env
from globediff_torchrl.training.mappo import make_optimizer


@pytest.fixture(scope="module")
def hunt():
    return make_env("vmas/hunt", num_envs=2)


@pytest.fixture
def batch_and_loss(hunt):
    """``batch_and_loss(**settings)``: every ratio is 1.5, every advantage 1, V went from 0 to 1, its target is 2."""

    def make(**settings):
        torch.manual_seed(0)
        critic = TensorDictModule(StateAsValue(), in_keys=["state"], out_keys=[k.STATE_VALUE])
        loss = loss_of(hunt, critic, **settings)
        batch = drawn(hunt, loss)
        batch[k.ACTION_LOG_PROB] = batch[k.ACTION_LOG_PROB] - math.log(1.5)
        batch["state"] = torch.ones(*batch.shape, 1)
        ones = torch.ones(*batch.shape, 2, 1)
        for key, value in ((k.ADVANTAGE, 1.0), (k.STATE_VALUE, 0.0), (k.VALUE_TARGET, 2.0)):
            batch[key] = value * ones
        return loss(batch)

    return make


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_a_ratio_above_the_clip_counts_as_the_clip(batch_and_loss, epsilon):
    objective = batch_and_loss(clip_epsilon=epsilon, clip_value=False)["loss_objective"]
    torch.testing.assert_close(objective.mean(), torch.tensor(-(1 + epsilon)))


@pytest.mark.parametrize(("clip", "expected"), [(True, (0.2 - 2) ** 2), (False, (1.0 - 2) ** 2)])
def test_the_value_s_error_is_squared_and_its_move_clipped_where_asked_for(batch_and_loss, clip, expected):
    error = batch_and_loss(clip_value=clip)["loss_critic"].mean()
    torch.testing.assert_close(error, torch.tensor(expected))
    torch.testing.assert_close(batch_and_loss(clip_value=clip, critic_coeff=3.0)["loss_critic"].mean(), 3 * error)


def test_the_entropy_is_a_bonus_of_the_given_weight(batch_and_loss):
    losses = batch_and_loss(entropy_coeff=0.5)
    torch.testing.assert_close(losses["loss_entropy"].mean(), -0.5 * losses["entropy"].mean())


def test_actor_and_critic_have_rates_of_their_own_that_fall_alike_and_the_given_epsilon(fast_trainer):
    entries = ["training.lr=1e-2", "training.critic_lr=1e-4", "training.final_lr=0.5", "training.adam_eps=1e-3"]
    trainer, seen = fast_trainer("mappo", *entries, iterations=2), []
    optimizer = trainer.optimization_stepper.optimizer
    trainer.register_op(
        "post_steps", lambda: seen.append({g["name"]: (g["lr"], g["eps"]) for g in optimizer.param_groups})
    )
    trainer.train()
    for passed, rates in zip((0.0, 0.5), seen, strict=True):
        factor = 1 - 0.5 * passed
        assert rates["actor"] == pytest.approx((1e-2 * factor, 1e-3))
        assert rates["critic"] == pytest.approx((1e-4 * factor, 1e-3))
    assert make_optimizer(trainer.loss_module, 1.0, 2.0, 0.1).param_groups[1]["initial_lr"] == 2.0
