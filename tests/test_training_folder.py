"""The folder of a run: what an earlier run left, and what is written of a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from globediff_torchrl import UserError, make_trainer
from globediff_torchrl.training import loggers
from globediff_torchrl.training.results import _say


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def finished(fast_trainer, tmp_path):
    """The folder of a run that has ended, with logs."""
    fast_trainer("mappo", "logger=csv", iterations=1).train()
    return tmp_path / "run"


@pytest.mark.parametrize("mistake", ["training.minibatches=7", "logger=tensorboard", "training.frames_per_batch=3"])
def test_a_start_that_fails_leaves_a_finished_run_where_it_was(finished, fast_trainer, monkeypatch, mistake):
    def missing(*args, **kwargs):
        raise ImportError("not installed")

    monkeypatch.setattr(loggers, "get_logger", missing)
    before = contents(finished)
    with pytest.raises(UserError):
        fast_trainer("mappo", mistake, iterations=1)
    assert contents(finished) == before


@pytest.mark.parametrize("mistake", ["pretrain.frames=240", "pretrain.dataset={folder}/checkpoints"])
def test_a_start_whose_offline_data_do_not_fit_leaves_a_finished_run_where_it_was(fast_trainer, tmp_path, mistake):
    fast_trainer("globediff", iterations=1).train()
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"pretrain\.frames = 160, but this run needs 240|holds no dataset"):
        fast_trainer("globediff", mistake.format(folder=tmp_path / "run"), iterations=1)
    assert contents(tmp_path / "run") == before


def test_a_start_in_the_folder_of_a_finished_run_moves_all_of_it_and_nothing_of_its_own(finished, fast_trainer, capsys):
    before = contents(finished)
    assert any(name.startswith("logs/") for name in before) and any(name.startswith("checkpoints/") for name in before)
    trainer = fast_trainer("mappo", "logger=csv", iterations=1, seed=1)
    assert contents(finished / "previous" / "1") == before
    assert {name for name in contents(finished) if not name.startswith("previous")} == {"config.yaml", ".lock"}
    assert "now in" in capsys.readouterr().out
    trainer.train()
    logs = contents(finished / "logs")
    assert logs and all(
        text.count(b"\n") == contents(finished / "previous/1/logs")[n].count(b"\n") for n, text in logs.items()
    )
    fast_trainer("mappo", "logger=csv", iterations=1, seed=1)
    assert contents(finished / "previous" / "1") == before and (finished / "previous" / "2" / "summary.json").exists()


def test_a_run_that_is_put_aside_takes_no_place_of_another_s(finished, fast_trainer):
    previous = finished / "previous"
    for _ in range(2):
        fast_trainer("mappo", iterations=1)
    shutil.rmtree(previous / "1")  # the user has looked through them
    before = contents(previous / "2")
    fast_trainer("mappo", iterations=1, seed=1)
    assert {path.name for path in previous.iterdir()} == {"2", "3"} and contents(previous / "2") == before
    (previous / "before the change").mkdir()
    fast_trainer("mappo", iterations=1, seed=1)
    assert (previous / "4" / "config.yaml").exists()


def test_what_a_logger_has_open_before_the_run_begins_stays(finished, fast_trainer, monkeypatch):
    def opens(kind, logger_name, experiment_name):
        (Path(logger_name) / experiment_name / "events").write_text("begun")

    monkeypatch.setattr(loggers, "get_logger", opens)
    fast_trainer("mappo", "logger=csv", iterations=1, seed=1)
    assert contents(finished / "logs") == {"events": b"begun"}
    assert "logs/events" not in contents(finished / "previous" / "1")


# -------------------------------------------------------------------------------------------------------------- resumes
def test_a_resume_takes_no_other_output(finished, tmp_path, monkeypatch):
    before = contents(finished)
    with pytest.raises(UserError, match=r"resume=.* goes on in the run's own folder.*got output=.*Leave output away"):
        make_trainer(resume=finished, output=tmp_path / "other")
    with pytest.raises(UserError, match="got output=elsewhere"):
        make_trainer(resume=finished, overrides=["output=elsewhere"])
    assert contents(finished) == before and not (tmp_path / "other").exists()
    monkeypatch.chdir(tmp_path)
    assert make_trainer(resume=finished, output="./run").collected_frames == 80  # the same by another name


def test_a_resume_takes_no_other_experiment(finished):
    before = contents(finished)
    says = "own configuration, that of experiment=vmas_quick, but experiment=vmas_full was asked.*give the entries that"
    with pytest.raises(UserError, match=says):
        make_trainer(resume=finished, total_frames=160, overrides=["experiment=vmas_full"])
    assert contents(finished) == before
    own = make_trainer(resume=finished, total_frames=160, overrides=["experiment=vmas_quick"]).config
    assert (own.total_frames, own.env.num_envs, own.experiment) == (160, 8, "vmas_quick")  # 8: not the experiment's


def test_a_run_of_before_experiments_were_written_down_is_resumed_without_one(finished):
    config = OmegaConf.load(finished / "config.yaml")
    del config.experiment
    OmegaConf.save(config, finished / "config.yaml")
    with pytest.raises(UserError, match="which is of no experiment, but experiment=vmas_quick was asked"):
        make_trainer(resume=finished, total_frames=160, overrides=["experiment=vmas_quick"])
    assert make_trainer(resume=finished, total_frames=160).config.experiment is None  # and not the default's name


def test_the_configuration_of_an_ended_run_stays_what_it_ran_with(finished):
    before = (finished / "config.yaml").read_text()
    make_trainer(resume=finished, overrides=["evaluation.final_episodes=2", "video=true"])
    assert (finished / "config.yaml").read_text() == before
    make_trainer(resume=finished, total_frames=160, overrides=["evaluation.final_episodes=2"])
    config = OmegaConf.load(finished / "config.yaml")
    assert (config.total_frames, config.evaluation.final_episodes) == (160, 2)


def test_a_resume_of_a_run_of_another_version_passes_over_an_entry_that_is_gone(finished):
    config = OmegaConf.load(finished / "config.yaml")
    config.training.gone, config.pretrain.gone = 1, 2
    OmegaConf.save(config, finished / "config.yaml")
    assert make_trainer(resume=finished, total_frames=160).train()["frames"] == 160
    with pytest.raises(UserError, match=r"Unknown entry 'pretrain.step': did you mean 'pretrain.steps'"):
        make_trainer(resume=finished, overrides=["+pretrain.step=5"])


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"deterministic": 1.5, "stochastic": 0.25}, "Final return 1.500 deterministic, 0.250 stochastic; 1,000 f"),
        ({"deterministic": 1.5}, "Final return 1.500 deterministic; 1,000 f"),
        ({"stochastic": 0.25}, "Final return 0.250 stochastic; 1,000 f"),
        ({}, "Results in"),
        ({"deterministic": 1.5, "won": 0.75}, "Final return 1.500 deterministic; share of successes 0.750 deter"),
    ],
)
def test_a_run_ends_also_where_crashes_took_all_episodes_of_a_mode(found, says, tmp_path, capsys):
    won = {"deterministic/success": found.pop("won")} if "won" in found else {}
    returns = {f"{mode}/return": value for mode, value in found.items()}
    _say({**returns, **won, "frames_per_second": 1000.0}, tmp_path)
    assert capsys.readouterr().out.startswith(says)
