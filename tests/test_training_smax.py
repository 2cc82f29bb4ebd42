"""Training on SMAX: stopped and resumed in the middle of battles, without and with a memory."""

from __future__ import annotations

import pytest
import torch
from recurrent_runs import RECURRENT, first_chunks
from smax_battles import need_jaxmarl
from stopped_runs import nearly_the_same_policy, train_until

from globediff_torchrl import keys

need_jaxmarl()
pytestmark = pytest.mark.usefixtures("jaxmarl_in_silence")

SMAX = ["env.max_steps=default", "training.frames_per_batch=80", "evaluation.episodes=8", "evaluation.final_episodes=8"]


@pytest.mark.parametrize(("algorithm", "target"), [("mappo", "absolute"), ("globediff", "relative")])
def test_a_resumed_training_equals_the_uninterrupted_one(algorithm, target, fast_trainer, tmp_path):
    """Batches of 10 steps hold pieces of battles: the simulator must be brought back in the middle of them."""

    def make(folder, resume=None):
        options = [*SMAX, f"env.state_target={target}"]
        return fast_trainer(algorithm, *options, iterations=4, folder=folder, env="smax/3m", resume=resume)

    whole = make("whole")
    if target == "relative":  # the state model infers the enemies' facts, the critic reads the whole state
        assert whole.team.state_model.state_key == keys.TARGET_STATE
        assert whole.team.state_model.state_dim == whole.env.task.target_layout.size
    results = whole.train()
    train_until(make("parts"), 160)
    torch.manual_seed(12345)
    resumed = make("parts", resume=tmp_path / "parts")
    assert resumed.collected_frames == 160
    resumed.train()
    nearly_the_same_policy(whole, resumed)
    assert whole.table.rows[-1]["frames"] == 320
    assert 0 <= results["stochastic/success"] <= 1


def test_a_recurrent_run_on_smax_is_trained_and_resumed(fast_trainer, tmp_path):
    """Battles end when they end: resets lie anywhere within the chunks, and agents die."""
    sizes = ["env.max_steps=default", "evaluation.episodes=8", "evaluation.final_episodes=8"]
    options = [*sizes, *RECURRENT, "training.frames_per_batch=320", "training.chunk_length=10"]

    def make(folder, **kwargs):
        return fast_trainer("mappo", *options, iterations=12, folder=folder, env="smax/3m", **kwargs)

    whole = make("whole")
    seen = first_chunks(whole)
    assert len(seen) == 3
    for chunks, ratio in seen:
        assert chunks.shape == (32, 10)
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    assert any((chunks["step_count"][:, 1:] == 0).any() for chunks, _ in seen)
    assert any((~chunks[keys.ACTIVE_MASK]).any() for chunks, _ in seen)
    train_until(make("parts"), 640)
    torch.manual_seed(12345)
    resumed = make("parts", resume=tmp_path / "parts")
    resumed.train()
    nearly_the_same_policy(whole, resumed)
    assert 0 <= resumed.results["stochastic/success"] <= 1
