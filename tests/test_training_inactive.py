"""Who is not active, the dead and those whose episode crashed, counts in no update."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_loss import drawn, loss_of
from tensordict import TensorDict

from globediff_torchrl import keys as k
from globediff_torchrl.training.mappo import Advantages, BatchValueNorm, normalize


def corrupted(batch, dead):
    changed = batch.clone()
    changed[k.OBSERVATION] = torch.where(dead, 7.0, batch[k.OBSERVATION])
    for key in (k.ADVANTAGE, k.VALUE_TARGET):
        changed[key] = torch.where(dead, -9.0, batch[key])
    changed[k.ACTION_LOG_PROB] = torch.where(dead[..., 0], -3.0, batch[k.ACTION_LOG_PROB])
    changed[k.ACTION_MASK] = batch[k.ACTION_MASK] | dead
    changed[k.ACTION] = torch.where(dead[..., 0], 2, batch[k.ACTION])
    return changed


@pytest.mark.parametrize("normed", [False, True])
def test_inactive_agents_leave_the_loss_and_its_gradient_unchanged(skirmish, normed):
    torch.manual_seed(0)
    norm = BatchValueNorm(shape=1) if normed else None
    loss = loss_of(skirmish, value_norm=norm)
    batch = Advantages(loss)(drawn(skirmish, loss))
    before = None if norm is None else {name: value.clone() for name, value in norm.state_dict().items()}
    dead, results = ~batch[k.ACTIVE_MASK], []
    assert dead.any()
    for data in (batch, corrupted(batch, dead)):
        if norm is not None:
            norm.load_state_dict(before)
        loss.zero_grad()
        terms = {name: value for name, value in loss(data.clone()).items() if name.startswith("loss_")}
        sum(terms.values()).backward()
        results.append([*terms.values(), *(p.grad for p in loss.parameters() if p.grad is not None)])
    assert len(results[0]) > 6
    for one, two in zip(*results):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_active_agents_change_the_loss(skirmish):
    loss = loss_of(skirmish)
    batch = Advantages(loss)(drawn(skirmish, loss))
    with torch.no_grad():
        living = loss(corrupted(batch, batch[k.ACTIVE_MASK]))
        assert not torch.allclose(living["loss_objective"], loss(batch)["loss_objective"])


def test_a_batch_in_which_every_episode_crashed_changes_neither_weights_nor_value_norm(fast_trainer):
    trainer = fast_trainer("mappo", iterations=2)
    before = {name: value.clone() for name, value in trainer.loss_module.state_dict().items()}

    def crash(batch):
        return batch.set(k.ACTIVE_MASK, torch.zeros_like(batch[k.ACTIVE_MASK]))

    trainer._batch_process_ops.insert(0, (crash, {}))
    trainer.train()
    for name, value in trainer.loss_module.state_dict().items():
        if "trunk.0" not in name:  # the running statistics of the inputs
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("algorithm", ["mappo", "globediff"])
def test_a_minibatch_of_nobody_is_no_step_and_keeps_the_names_of_the_log(fast_trainer, progress, tmp_path, algorithm):
    """The first one gives Trainer the names under which it averages."""
    trainer = fast_trainer(algorithm, iterations=1)
    (optimizer,) = {trainer.optimization_stepper.optimizer}
    calls, steps, step = [], [], optimizer.step

    def nobody_first(batch):
        calls.append(len(batch))
        return batch.set(k.ACTIVE_MASK, torch.zeros_like(batch[k.ACTIVE_MASK])) if len(calls) == 1 else batch

    optimizer.step = lambda *arguments: (steps.append(1), step(*arguments))
    trainer.register_op("process_optim_batch", nobody_first)
    trainer.train()
    assert len(steps) == len(calls) - 1 > 0
    (row,) = progress(tmp_path / "run")
    assert float(row["grad_norm_actor"]) > 0 and float(row["loss_critic"]) > 0


def test_what_a_step_of_nobody_logs_lies_where_the_losses_are(fast_trainer):
    trainer = fast_trainer("mappo", iterations=1)
    elsewhere = SimpleNamespace(compute_loss=lambda batch: {"loss_objective": torch.zeros(2, device="meta")})
    logged = trainer.optimization_stepper._unchanged(elsewhere, TensorDict({}))
    assert {value.device.type for value in logged.values()} == {"meta"}


def test_an_advantage_that_stands_alone_is_not_normalised_to_nan():
    active = torch.zeros(3, 2, 2, 1, dtype=torch.bool)
    active[0, 1, 0] = True
    assert torch.equal(normalize(torch.randn(3, 2, 2, 1), active), torch.zeros(3, 2, 2, 1))
