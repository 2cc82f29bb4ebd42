"""Runs that are stopped on the way, and what they are compared by."""

from __future__ import annotations

from pathlib import Path

import torch


def stop_at(trainer, frames: int, how=None):
    """The trainer, which stops once it has collected ``frames``, or calls ``how()`` there."""
    stop = how or trainer.request_stop

    def hook(batch):
        if trainer.collected_frames == frames:
            stop()

    trainer.register_op("post_steps_log", hook)
    return trainer


def train_until(trainer, frames: int) -> None:
    """Trains and sees to it that the stop came there."""
    stop_at(trainer, frames).train()
    assert trainer.collected_frames == frames


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("checkpoint-*"))


def same(one, two) -> None:
    """The networks of two trainers, bit by bit."""
    for module in ("policy", "critic"):
        pairs = zip(getattr(one.team, module).state_dict().items(), getattr(two.team, module).state_dict().values())
        assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []


def nearly_the_same_policy(one, two) -> None:
    """Up to the last bits: XLA does not round the same way in every process."""
    for (name, a), b in zip(one.team.policy.state_dict().items(), two.team.policy.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)
