"""TorchRL's loggers with a run: what TensorBoard holds, and that a run on Weights & Biases outlives its processes.

Those that need either package are left out where it is not installed: CI has neither.
"""

from __future__ import annotations

import pytest

from globediff_torchrl.training import loggers
from globediff_torchrl.training.config import compose
from globediff_torchrl.training.run_files import WANDB_ID


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """The package, told to send nothing."""
    package = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return package


def test_a_resumed_run_on_wandb_is_the_one_before_and_any_other_is_a_new_one(fast_config, tmp_path):
    config = compose("vmas", [*fast_config("mappo"), "algorithm=mappo", "seed=3"])
    first = loggers._wandb_settings(config, tmp_path)
    assert first["id"] != loggers._wandb_settings(config, tmp_path)["id"]
    (tmp_path / WANDB_ID).write_text(first["id"])
    assert first["id"] != loggers._wandb_settings(config, tmp_path)["id"]  # begun anew in the same folder
    config.resume = str(tmp_path)
    assert first == loggers._wandb_settings(config, tmp_path)
    assert first["group"] == "vmas/hunt/mappo" and loggers._run_name(config) == "hunt-mappo-seed3"


def test_a_run_on_wandb_goes_on_after_a_resume_and_two_in_one_process_are_two(wandb, fast_trainer, tmp_path):
    trainer = fast_trainer("mappo", "logger=wandb", iterations=1)
    other = fast_trainer("mappo", "logger=wandb", iterations=1, folder="other", seed=1)
    runs = [each.logger.experiment for each in (trainer, other)]
    assert runs[0].id != runs[1].id
    assert [(run.name, run.project, run.config["seed"]) for run in runs] == [
        ("hunt-mappo-seed0", loggers.PROJECT, 0),
        ("hunt-mappo-seed1", loggers.PROJECT, 1),
    ]
    other.train()
    trainer.train()  # the end of another run has not ended this one
    resumed = fast_trainer("mappo", "logger=wandb", iterations=2, resume=tmp_path / "run")
    assert resumed.logger.experiment.id == runs[0].id
    resumed.train()


def test_tensorboard_holds_what_the_table_holds_by_frame(fast_trainer, tmp_path, progress):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fast_trainer("globediff", "logger=tensorboard", iterations=2).train()
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    rows = progress(tmp_path / "run")
    for name in ("return", "loss_objective", "state_model/loss_kl"):
        expected = [(int(float(row["frames"])), float(row[name])) for row in rows if row.get(name)]
        assert [event.step for event in events.Scalars(name)] == [frames for frames, _ in expected], name
        assert [event.value for event in events.Scalars(name)] == pytest.approx([value for _, value in expected]), name
