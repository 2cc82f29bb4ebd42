"""The minibatches of recurrent MAPPO: chunks of the steps of a batch, with the hidden states they begin with."""

from __future__ import annotations

import pytest
import torch
from recurrent_runs import RECURRENT, drawn, out_of_step, recurrent_loss

from globediff_torchrl import UserError, make_env
from globediff_torchrl import keys as k
from globediff_torchrl.keys import ACTOR_HIDDEN
from globediff_torchrl.training.mappo import Minibatches
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages


@pytest.mark.parametrize(
    ("steps", "length", "shape"), [(8, 4, (8, 4)), (7, 3, (12, 3)), (9, 4, (12, 3)), (6, None, (4, 6))]
)
def test_an_epoch_sees_each_step_once_in_its_chunk_and_fills_up_with_nobody(steps, length, shape):
    env, loss, start = out_of_step()
    batch = RecurrentAdvantages(loss)(drawn(env, loss, steps, start))
    hook = ChunkMinibatches(loss, (4, steps), 2, length)
    hook.extend(batch)
    for _ in range(2):  # epochs
        data = torch.cat([hook.sample(None) for _ in range(2)])
        assert data.shape == shape
        active = data[k.ACTIVE_MASK]
        assert (active.all(2) == active.any(2)).all() and active.sum() == 4 * steps * 2
        seen = data[k.OBSERVATION][active[..., 0, 0]].flatten(1)
        expected = batch[k.OBSERVATION].reshape(4 * steps, -1)
        assert torch.equal(seen[seen[:, 0].argsort()], expected[expected[:, 0].argsort()])
        for key in (ACTOR_HIDDEN, "critic_hidden"):  # a chunk starts where the rollout was at its first step
            rows = {tuple(row.tolist()): i for i, row in enumerate(expected)}
            where = torch.tensor([rows[tuple(row.tolist())] for row in data[k.OBSERVATION][:, 0].flatten(1)])
            assert torch.equal(data[key][:, 0], batch[key].flatten(0, 1)[where])
            assert not data[key].requires_grad


def test_the_steps_of_a_chunk_follow_one_another():
    env, loss, start = out_of_step()
    batch = RecurrentAdvantages(loss)(drawn(env, loss, 8, start))
    hook = ChunkMinibatches(loss, (4, 8), 1, 4)
    hook.extend(batch)
    count = hook.sample(None)["step_count"].squeeze(-1)
    assert ((count[:, 1:] == count[:, :-1] + 1) | (count[:, 1:] == 0)).all()


def test_steps_that_fill_up_a_chunk_change_no_loss():
    env, loss, start = out_of_step()
    batch = RecurrentAdvantages(loss)(drawn(env, loss, 7, start))
    hook = ChunkMinibatches(loss, (4, 7), 1, 3)
    hook.extend(batch)
    data = hook.sample(None)
    filled = ~data[k.ACTIVE_MASK]
    assert filled.sum() == 4 * 2 * 2
    changed = data.clone()
    for key in (k.ADVANTAGE, k.VALUE_TARGET):
        changed[key] = torch.where(filled, 50.0, data[key])
    with torch.no_grad():
        one, two = loss(data), loss(changed)
    torch.testing.assert_close(one["loss_objective"], two["loss_objective"])
    torch.testing.assert_close(one["loss_critic"], two["loss_critic"])


def test_chunks_that_do_not_divide_are_refused_with_a_divisor(fast_trainer):
    options = [*RECURRENT, "training.chunk_length=5", "training.minibatches=3"]
    with pytest.raises(UserError, match=r"16 chunks .* training.minibatches=3 .* e.g. 2"):
        fast_trainer("mappo", *options, iterations=1)


@pytest.mark.parametrize(("recurrent", "where"), [("gru", "the actor and the critic"), ("none", "the critic")])
def test_minibatches_of_single_frames_refuse_a_memory_with_the_fix(recurrent, where):
    loss = recurrent_loss(make_env("vmas/hunt", num_envs=4, max_steps=5), recurrent=recurrent)
    with pytest.raises(UserError, match=rf"without a memory, got one in {where}: take ChunkMinibatches\(loss, "):
        Minibatches(loss, 20, 2)
