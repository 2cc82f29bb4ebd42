"""Sweeps: all combinations are looked at before the first one runs, and each has a folder of its own."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmark_scripts import run
from test_readme import command_lines

from globediff_torchrl import UserError
from globediff_torchrl.training import cli
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.sweeps import combinations

APART = "output=runs/lr${training.lr}"


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """The runs that were begun; none of them trains."""
    begun = []

    def begin(config, overrides):
        begun.append((config.training.lr, config.output))
        return SimpleNamespace(train=lambda: None, stopped_by=None)

    monkeypatch.setattr(cli, "trainer_from_config", begin)
    monkeypatch.setattr(cli, "announce", lambda trainer: None)
    monkeypatch.chdir(tmp_path)
    return begun


@pytest.fixture
def refusal(monkeypatch, capsys, ran):
    """``refusal("-m", ...)`` -> the one line that the command line is refused with, before anything has run."""

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert run(monkeypatch, "vmas", *arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and not ran, lines
        return lines[0]

    return said


@pytest.mark.parametrize(
    ("sweep", "folder"),
    [
        (["training.lr=1e-3,1e-2"], "runs/vmas/hunt/globediff/seed0"),
        (["seed=range(100,102)", "training.lr=choice(1e-3,1e-2)"], "runs/vmas/hunt/globediff/seed100"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "algorithm=mappo,oracle", "output=one"], "one"),
        (["training=mappo,mappo_reference"], "runs/vmas/hunt/globediff/seed0"),
        (["+env.kwargs.n_agents=2,3", "algorithm=mappo"], "runs/vmas/hunt/mappo/seed0"),
        (["training.lr=1e-3,1e-2", "output=a,./a"], "a"),
    ],
)
def test_a_sweep_into_one_folder_is_refused_with_a_form_that_works(refusal, ran, monkeypatch, sweep, folder):
    said = refusal("-m", *sweep)
    assert f"would both write into {folder}, " in said
    form = re.search(r"'(output=[^']+)'", said)[1]
    cli.check_arguments("vmas", ["-m", *(entry for entry in sweep if not entry.startswith("output")), form])


def test_a_sweep_over_what_a_resumed_run_may_change_is_refused(refusal, fast_trainer, tmp_path):
    fast_trainer("mappo", iterations=1)
    said = refusal("-m", f"resume={tmp_path / 'run'}", "evaluation.episodes=2,4")
    assert "would both write into" in said and "sweep over resume alone" in said


@pytest.mark.parametrize(("arguments", "code"), [(["-m", "seed=0,1"], 128 + signal.SIGTERM), (["seed=0"], None)])
def test_a_signal_that_ends_a_run_with_a_checkpoint_ends_its_sweep(monkeypatch, capsys, ran, arguments, code):
    begin = cli.trainer_from_config

    def stopped(config, overrides):
        begin(config, overrides)
        return SimpleNamespace(train=lambda: None, stopped_by=signal.SIGTERM, output="here")

    monkeypatch.setattr(cli, "trainer_from_config", stopped)
    assert run(monkeypatch, "vmas", *arguments) == code
    assert len(ran) == 1 and ("resume=here goes on" in capsys.readouterr().err) == (code is not None)


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1")])
def test_a_sweep_writes_nothing_where_it_is_started(monkeypatch, ran, tmp_path, tmp_path_factory, launcher):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    assert run(monkeypatch, "vmas", "-m", *launcher, "seed=0,1") is None
    assert len(ran) == 2 and not list(tmp_path.iterdir())


def test_a_combination_that_stands_twice_is_refused(refusal):
    assert "seed=100 twice" in refusal("-m", "seed=100,100")


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ("training.lr=1e-3,abc", "training.lr must be a number above 0, got 'abc'"),
        ("env.scenario=hunt,huntt", "did you mean 'vmas/hunt'"),
        ("algorithm.state_model.name=globediff,globdiff", "Unknown state model 'globdiff'"),
        ("+pretrain.step=5,6", "did you mean 'pretrain.steps'"),
        ("training.lr=interval(0,1)", "does not support sweep type"),
        ("resume=nowhere,elsewhere", "resume=nowhere has no run in it"),
    ],
)
def test_a_mistake_in_one_combination_is_refused_before_the_first_one_runs(refusal, sweep, says):
    assert says in refusal("-m", "seed=100,101", sweep, "output=runs/${training.lr}/${seed}/${env.scenario}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "training.lr=1e-3,1e-2", APART],
        ["training.lr=1e-3,1e-2", "-m", APART],
        ["algorithm=mappo", "--multirun", "training.lr=1e-3,1e-2", APART],
        ["algorithm=mappo", "training.lr=1e-3,1e-2", APART, "-m"],
        ["hydra.mode=MULTIRUN", "training.lr=1e-3,1e-2", APART],
    ],
)
def test_every_combination_runs_in_its_own_folder_wherever_the_m_stands(monkeypatch, ran, arguments):
    assert run(monkeypatch, "vmas", *arguments) is None
    assert ran == [(0.001, "runs/lr0.001"), (0.01, "runs/lr0.01")]


def test_an_option_keeps_its_value_when_it_is_moved_to_the_front(monkeypatch, ran, capsys):
    assert run(monkeypatch, "vmas", "seed=100", "--cfg", "job", "training.lr=0.007") is None
    assert "lr: 0.007" in capsys.readouterr().out and not ran
    assert sys.argv[1:] == ["--cfg", "job", "seed=100", "training.lr=0.007"]


def test_a_sweep_of_another_sweeper_is_left_to_it():
    cli.check_arguments("vmas", ["-m", "hydra/sweeper=another", "training.lr=interval(0,1)"])


def test_the_combinations_are_hydra_s_own():
    assert combinations(["algorithm=glob(mappo_joint*)", "seed=1,2"]) == [
        [f"algorithm={name}", f"seed={seed}"] for name in ("mappo_joint", "mappo_joint_history") for seed in (1, 2)
    ]
    assert combinations([]) == [[]]


def test_an_output_that_refers_to_nothing_is_refused():
    with pytest.raises(UserError, match=r"output=runs/\$\{training.lrr\} refers to what is not there"):
        configuration.output_of(configuration.compose(overrides=["output=runs/${training.lrr}"]))


@pytest.mark.parametrize("line", [line for _, line in command_lines() if " -m " in line])
def test_a_printed_sweep_is_taken(line, fast_trainer, tmp_path, monkeypatch):
    _, script, *arguments = shlex.split(line, comments=True)
    monkeypatch.chdir(tmp_path)
    resumed = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    for folder in (folder for folders in resumed for folder in folders.split(",")):
        fast_trainer("mappo", iterations=1, folder=folder)
    cli.check_arguments(Path(script).stem, arguments)
