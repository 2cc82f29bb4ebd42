"""``python benchmarks/vmas.py`` as a process of its own; what can be got wrong on its line is in test_bad_input.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from globediff_torchrl.state_models import STATE_MODELS
from globediff_torchrl.training import announce

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "vmas.py"), f"output={folder / 'run'}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def check(code: int, stderr: str, says: list[str], folder: Path):
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert code == 2, stderr
    assert "Traceback" not in stderr and len([line for line in lines if line.startswith("error: ")]) == 1
    assert lines[-1].startswith("error: ") and all(word in lines[-1] for word in says), stderr
    assert not (folder / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [("algorithm=globdiff", ["globdiff", "globediff", "mappo_joint"]), ("env.num_envs=-1", ["env.num_envs", "-1"])],
)
def test_bad_input_of_a_real_process_ends_with_code_2(tmp_path, override, says):
    done = run(tmp_path, override)
    check(done.returncode, done.stderr, says, tmp_path)


def test_a_run_leaves_its_results_and_says_what_is_hidden_and_where_they_lie(tmp_path, fast_config):
    options = [option for option in fast_config("globediff") if not option.startswith(("progress", "logger"))]
    done = run(tmp_path, *options, "total_frames=160")
    folder = tmp_path / "run"
    assert done.returncode == 0, done.stderr
    names = ["summary.json", "progress.csv", "learning_curve.png", "policy.safetensors", "config.yaml"]
    assert all((folder / name).stat().st_size > 0 for name in names)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["frames"] == 160 and summary["complete"] and "deterministic/return" in summary
    assert len((folder / "progress.csv").read_text().splitlines()) == 3
    said = done.stdout + done.stderr
    assert "hides agents.target.offset" in said and str(folder) in said
    assert "GlobeDiff once per team, of which the actor reads the blend (relative); " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("algorithm", "read"),
    [
        ("regressor", "MLPStateModel once per team, of which the actor reads the mean (relative)"),
        ("oracle", "OracleStateModel once per team, of which the actor reads the true state (relative)"),
        ("vae", "VAEStateModel once per team, of which the actor reads the sample (relative)"),
    ],
)
def test_the_first_lines_of_a_run_say_what_the_actor_reads(algorithm, read, fast_trainer, capsys):
    announce(fast_trainer(algorithm))
    assert read in capsys.readouterr().out


@pytest.mark.parametrize(
    ("base", "read"),
    [("regressor", "Mine once per team, of which the actor reads the mean"), ("oracle", "Mine .* the true state")],
)
def test_what_the_actor_reads_of_a_model_of_ones_own_is_what_it_says_itself(
    base, read, fast_trainer, monkeypatch, capsys
):
    monkeypatch.setitem(STATE_MODELS, "mine", type("Mine", (STATE_MODELS[base],), {}))
    announce(fast_trainer(base, "algorithm.state_model.name=mine"))
    assert re.search(read, capsys.readouterr().out)


def test_a_process_ended_in_its_pretraining_says_how_to_go_on(tmp_path, fast_config):
    command = [sys.executable, str(ROOT / "benchmarks" / "vmas.py"), f"output={tmp_path / 'run'}"]
    command += [*fast_config("globediff"), "total_frames=160", "pretrain.steps=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run" / "dataset" / "dataset.json").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped at once by SIGTERM" in said and f"resume={tmp_path / 'run'}" in said and "Traceback" not in said
