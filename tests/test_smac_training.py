"""A whole training on the real smacv2 with a stand-in for the engine (tests/sc2_standin): no StarCraft result."""

from __future__ import annotations

import gc
import json

import pytest
from sc2_standin import Knobs, install, read_log

from globediff_torchrl import make_trainer

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")

BATCH = 80  # frames
FAST = [
    "experiment=smac_tuned",
    "env.num_envs=2",
    f"training.frames_per_batch={BATCH}",
    "pretrain.frames=160",
    "pretrain.steps=5",
    "pretrain.batch_size=16",
    "state_model_update.every_episodes=2",
    "state_model_update.steps=1",
    "state_model_update.batch_size=16",
    "state_model_update.buffer_size=1000",
    "evaluation.every_frames=0",
    "evaluation.final_episodes=3",
    "evaluation.num_envs=2",
    f"checkpoint.every_frames={BATCH}",
    "algorithm.state_model.width=16",
    "progress=false",
    "logger=none",
]
CRASH = 100  # step requests until the first engine dies: behind the warm-up, in the training


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """The stand-in, whose first engine crashes; every engine that was started must have ended."""
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))
    Knobs(damage=0.5, log=tmp_path / "log", crash_at=CRASH, faulty_starts=1).set(monkeypatch)
    yield tmp_path / "log"


def test_globediff_trains_through_a_crash_evaluates_and_resumes(standin, tmp_path, progress):
    trainer = make_trainer(
        "smac/3m", "globediff", total_frames=3 * BATCH, seed=100, output=tmp_path / "run", overrides=FAST
    )
    assert trainer.env.task.hidden == tuple(f"agents.enemy_{k}.health" for k in range(3))
    results = trainer.train()
    assert results["complete"] and results["frames"] == 3 * BATCH
    assert {"deterministic/success", "stochastic/success", "stochastic/state_error_mean"} <= set(results)
    assert json.loads((tmp_path / "run" / "dataset" / "dataset.json").read_text())["env"] == "smac/3m"
    rows = progress(tmp_path / "run")
    assert [float(row["frames"]) for row in rows] == [BATCH, 2 * BATCH, 3 * BATCH]
    assert float(rows[-1]["engine/crashes"]) == 1
    assert float(rows[-1]["engine/memory_mb"]) > 0 and float(rows[-1]["engine/processes"]) >= 2

    resumed = make_trainer(resume=tmp_path / "run", env="smac/3m", total_frames=4 * BATCH)
    assert resumed.team.state_model is not None and resumed.collected_frames == 3 * BATCH
    assert resumed.train()["frames"] == 4 * BATCH
    after = progress(tmp_path / "run")
    assert len(after) == 4 and after[:2] == rows[:2]

    del trainer, resumed
    gc.collect()
    log = read_log(standin)
    assert len(log.started) >= 8 and log.running == []
