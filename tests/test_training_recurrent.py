"""Recurrent MAPPO: the ratio with its hidden states, values in order, resume, configuration."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from recurrent_runs import RECURRENT, drawn, first_chunks, out_of_step, recurrent_loss
from small_loss import SETTINGS
from stopped_runs import same, train_until
from tensordict import LazyStackedTensorDict
from torchrl.envs.utils import step_mdp
from torchrl.modules import set_recurrent_mode

from globediff_torchrl import UserError, load_policy
from globediff_torchrl import keys as k
from globediff_torchrl.keys import ACTOR_HIDDEN
from globediff_torchrl.training.config import compose
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages


# --------------------------------------------------------------------------------------------------------------- ratio
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("mappo", ["training.chunk_length=7"]),
        ("mappo", ["training.chunk_length=3", "env.continuous_actions=false"]),
        ("mappo", ["training.chunk_length=null", "training.critic.recurrent=none"]),
        ("globediff", ["training.chunk_length=4"]),
        ("globediff", ["training.chunk_length=4", "training.update_input=true"]),
    ],
)
def test_the_ratio_is_one_before_the_first_step_with_resets_within_the_chunks(fast_trainer, algorithm, options):
    """Batches of 7 steps of episodes of 10: a reset lies at another step of each batch."""
    options = [*RECURRENT, "training.frames_per_batch=56", "training.lr=3e-2", *options]
    seen = first_chunks(fast_trainer(algorithm, *options, iterations=3))
    assert len(seen) == 5
    within = 0
    for chunks, ratio in seen:
        assert len(ratio) == 56 * 2
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
        within += int((chunks["step_count"][:, 1:] == 0).sum())
    assert within > 0


def test_the_ratio_hangs_on_the_stored_memory_and_on_the_resets():
    env, loss, start = out_of_step()
    batch = drawn(env, loss, 8, start)
    chunks = ChunkMinibatches(loss, (4, 8), 1, 4)
    batch = RecurrentAdvantages(loss)(batch)
    chunks.extend(batch)
    data = chunks.sample(None)

    def error(data):
        with torch.no_grad(), set_recurrent_mode(True):
            new = loss.actor_network.get_dist(data).log_prob(data[k.ACTION])
        return (new - data[k.ACTION_LOG_PROB]).abs().max()

    assert error(data.clone()) < 1e-5
    assert error(data.clone().set(ACTOR_HIDDEN, torch.zeros_like(data[ACTOR_HIDDEN]))) > 1e-3
    assert error(data.clone().set("step_count", torch.ones_like(data["step_count"]))) > 1e-3
    with torch.no_grad():
        out = loss(data)  # TorchRL's losses look at time as a sequence by themselves
    assert out["clip_fraction"] == 0 and (out["max_ratio"] - 1).abs() < 1e-5


def test_the_last_step_of_a_lazy_stack_counts_beside_the_copies_that_fill_up_its_chunk():
    """A rollout that is gone on with by hand is one: its first step has other keys than the rest."""
    env, loss, start = out_of_step()
    first = drawn(env, loss, 8, start)
    batch = drawn(env, loss, 8, env.maybe_reset(step_mdp(first[:, -1])))
    assert isinstance(batch["agents"], LazyStackedTensorDict)
    batch = RecurrentAdvantages(loss)(batch)
    chunks = ChunkMinibatches(loss, (4, 8), 1, 3)  # a ninth step fills up each environment's last chunk
    chunks.extend(batch)
    sample = chunks.sample(None)
    active = sample[k.ACTIVE_MASK]
    assert active.sum() == 4 * 8 * 2
    torch.testing.assert_close(sample[k.VALUE_TARGET][active].sum(), batch[k.VALUE_TARGET].sum())


# -------------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("inputs", [("state",), (k.OBSERVATION,)])
def test_values_advantages_and_memory_are_those_of_the_critic_run_step_by_step(inputs):
    env, loss, start = out_of_step()
    loss = recurrent_loss(env, critic_inputs=inputs)
    rollout = drawn(env, loss, 12, start)
    critic, hook, found = loss.critic_network, RecurrentAdvantages(loss), []
    for batch in (rollout[:, :7], rollout[:, 7:]):
        found.append(hook(batch.clone()))
    key = critic.hidden_key
    hidden = torch.zeros(4, *(() if key == "critic_hidden" else (2,)), 16)
    value, following, before = [], [], []
    for step in rollout.unbind(1):
        fresh = (step["step_count"] == 0).reshape(4, *[1] * (hidden.ndim - 1))
        before.append(torch.where(fresh, 0.0, hidden))
        now = critic(step.exclude("next").set(key, before[-1]))
        hidden = now["next"][key]
        value.append(now[k.STATE_VALUE])
        following.append(critic(step["next"].clone().set(key, hidden))[k.STATE_VALUE])
    value, following = torch.stack(value, 1).detach(), torch.stack(following, 1).detach()
    joined = torch.cat([batch[k.STATE_VALUE] for batch in found], 1)
    torch.testing.assert_close(joined, value, atol=1e-5, rtol=1e-5)
    joined = torch.cat([batch[key] for batch in found], 1)
    torch.testing.assert_close(joined, torch.stack(before, 1).detach(), atol=1e-5, rtol=1e-5)
    for batch, steps in zip(found, (slice(0, 7), slice(7, 12))):
        expected = by_hand(rollout[:, steps], value[:, steps], following[:, steps])
        torch.testing.assert_close(batch[k.VALUE_TARGET] - batch[k.STATE_VALUE], expected, atol=1e-5, rtol=1e-5)


def by_hand(batch, value, following):
    """Generalised advantage estimates, backwards through time."""
    advantage, total = [], torch.zeros_like(value[:, 0])
    for t in reversed(range(batch.shape[1])):
        after = batch["next"][:, t]
        done, terminated = (after[name].unsqueeze(-1).float() for name in ("done", "terminated"))
        delta = after[k.REWARD] + SETTINGS["gamma"] * following[:, t] * (1 - terminated) - value[:, t]
        total = delta + SETTINGS["gamma"] * SETTINGS["lmbda"] * (1 - done) * total
        advantage.append(total)
    return torch.stack(advantage[::-1], 1)


# ----------------------------------------------------------------------------------------------------------- whole runs
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("mappo", ["training.frames_per_batch=32"]),  # 4 of the 10 steps of an episode
        ("globediff", ["training.frames_per_batch=32"]),
        ("mappo_history", []),
    ],
)
def test_a_resumed_recurrent_run_equals_the_uninterrupted_one(fast_trainer, tmp_path, progress, algorithm, options):
    def make(folder, **kwargs):
        return fast_trainer(algorithm, *RECURRENT, "training.chunk_length=3", *options, folder=folder, **kwargs)

    whole = make("whole")
    whole.train()
    train_until(make("parts"), 96 if options else 80)
    torch.manual_seed(12345)
    resumed = make("parts", resume=tmp_path / "parts")
    resumed.train()
    same(whole, resumed)
    assert progress(tmp_path / "whole") == progress(tmp_path / "parts")
    env, policy = load_policy(tmp_path / "parts", num_envs=3, seed=7)
    assert env.rollout(12, policy, break_when_any_done=False)[ACTOR_HIDDEN].shape == (3, 12, 2, 16)


def test_the_reference_values_of_recurrent_mappo():
    training = compose("vmas", ["training=mappo_recurrent"]).training
    for network in (training.actor, training.critic):
        assert OmegaConf.to_container(network) == {
            "hidden_sizes": [64, 64],
            "activation": "relu",
            "layer_norm": True,
            "input_norm": "layer",
            "recurrent": "gru",
        }
    assert training.chunk_length == 10
    assert compose("vmas").training.actor.recurrent == "none"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.chunk_length=0", r"training.chunk_length must be a whole number above 0, or null .* got 0.* is 10"),
        ("training.actor.recurrent=lstm", r"training.actor.recurrent.*'lstm'.*Known: none, gru"),
    ],
)
def test_what_does_not_fit_is_named(fast_trainer, override, message):
    with pytest.raises(UserError, match=message):
        fast_trainer("mappo", *RECURRENT, override)
