"""Scenarios and state models of the user's own, by the entry ``imports``: on a line, in a sweep, in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from benchmark_scripts import ROOT
from conftest import FAST
from omegaconf import OmegaConf

from globediff_torchrl import UserError, load_policy, make_trainer
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.state_models import STATE_MODELS
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.cli import check_arguments
from globediff_torchrl.training.imports import import_modules

WORLDS = """
import dataclasses
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.state_models import STATE_MODELS

class Mine(STATE_MODELS["regressor"]):
    pass

PRESETS["my_hunt"] = dataclasses.replace(PRESETS["hunt"], max_steps=10)
STATE_MODELS["mine"] = Mine
"""
MINE = ["imports=[my_worlds]", "env.scenario=my_hunt", "algorithm=regressor", "algorithm.state_model.name=mine"]


def forget():
    PRESETS.pop("my_hunt", None)
    STATE_MODELS.pop("mine", None)
    sys.modules.pop("my_worlds", None)


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """The current folder, with ``my_worlds.py`` in it, which this process has not imported."""
    (tmp_path / "my_worlds.py").write_text(WORLDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    forget()
    yield tmp_path
    forget()


def process(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sweep_in_other_processes_trains_on_what_a_module_registers_and_load_policy_opens_it(worlds):
    sweep = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *MINE, "seed=100,101", *FAST, "total_frames=80"]
    process(worlds, str(ROOT / "benchmarks" / "vmas.py"), *sweep)
    for seed in (100, 101):
        run = worlds / f"runs/vmas/my_hunt/regressor/seed{seed}"
        assert json.loads((run / "summary.json").read_text())["env"] == "vmas/my_hunt"
        assert list(OmegaConf.load(run / "config.yaml").imports) == ["my_worlds"]
    opens = "from globediff_torchrl import load_policy; print(load_policy({!r}, num_envs=2)[0].task.name)"
    assert "vmas/my_hunt" in process(worlds, "-c", opens.format(str(run)))


def test_a_resume_and_load_policy_import_what_the_run_had(worlds):
    make_trainer(output="run", overrides=[*FAST, *MINE, "total_frames=80"]).train()
    forget()
    assert load_policy("run", num_envs=2)[0].task.name == "vmas/my_hunt"
    forget()
    resumed = make_trainer(resume="run", total_frames=160)
    assert type(resumed.team.state_model).__name__ == "Mine" and resumed.train()["complete"]


@pytest.fixture
def flow(worlds):
    """An algorithm of one's own, outside the repository: the current folder's ``conf/algorithm/flow.yaml``."""
    regressor = OmegaConf.merge(
        configuration.load_algorithm("regressor"), {"name": "flow", "state_model": {"width": 8}}
    )
    (worlds / "conf" / "algorithm").mkdir(parents=True)
    OmegaConf.save(regressor, worlds / "conf" / "algorithm" / "flow.yaml")
    return worlds


def test_an_algorithm_of_ones_own_is_found_on_the_line_and_its_run_needs_the_file_no_more(flow):
    line = ["--config-dir", "conf", "algorithm=flow", *FAST, "total_frames=80"]
    process(flow, str(ROOT / "benchmarks" / "vmas.py"), *line, "output=run")
    (flow / "conf" / "algorithm" / "flow.yaml").unlink()
    assert load_policy("run", num_envs=2)[1][0].config["width"] == 8
    resumed = make_trainer(resume="run", total_frames=160)
    assert resumed.config.algorithm.name == "flow" and resumed.train()["complete"]


def test_an_algorithm_of_ones_own_is_found_by_make_trainer_and_resumed_with_the_same_arguments(flow):
    own = {"algorithm": "flow", "overrides": ["hydra.searchpath=[conf]"]}
    make_trainer(output="run", total_frames=80, **{**own, "overrides": [*own["overrides"], *FAST]}).train()
    resumed = make_trainer(resume="run", total_frames=160, **own)
    assert resumed.team.state_model.config["width"] == 8 and "hydra" not in resumed.config
    with pytest.raises(UserError, match=r"Unknown algorithm 'flwo': did you mean 'flow'\? Known: flow, globediff"):
        make_trainer(algorithm="flwo", overrides=own["overrides"])
    for unread in ("[conf", "conf"):
        with pytest.raises(UserError, match="does not fit: "):
            make_trainer(overrides=[f"hydra.searchpath={unread}"])
    with pytest.raises(UserError, match=r"names 'cnf', expected a folder .*: is the path right"):
        make_trainer(algorithm="flow", overrides=["hydra.searchpath=[cnf]"])


@pytest.mark.parametrize("named", [["--config-dir=conf"], ["-cd", "conf"], ["hydra.searchpath=[conf]"]])
def test_a_sweep_is_looked_through_with_algorithms_of_ones_own(flow, named, capsys):
    check_arguments("vmas", ["-m", *named, "algorithm=flow,mappo", *FAST])
    with pytest.raises(SystemExit):
        check_arguments("vmas", ["-m", *named, "algorithm=flow,mapo", *FAST])
    assert "Unknown algorithm 'mapo'" in capsys.readouterr().err


def test_load_policy_of_a_run_that_does_not_remember_the_module_says_how_it_would(worlds):
    import_modules(["my_worlds"])  # as in a script, which registers without an entry of the configuration
    make_trainer(output="run", overrides=[*FAST, *MINE[2:], "total_frames=80"]).train()
    forget()
    with pytest.raises(UserError, match=r"Unknown state model 'mine'.*its module is imported, see imports"):
        load_policy("run", num_envs=2)


def test_what_a_run_of_before_had_not_is_as_base_yaml_has_it(fast_trainer, tmp_path):
    fast_trainer("mappo", iterations=1).train()
    path = tmp_path / "run" / "config.yaml"
    config = OmegaConf.load(path)
    del config["imports"], config["video"], config["evaluation"]["num_envs"]
    config.evaluation.episodes = 3
    OmegaConf.save(config, path)
    load_policy(tmp_path / "run", num_envs=2)
    resumed = make_trainer(resume=tmp_path / "run", total_frames=160).config
    assert (resumed.imports, resumed.video, resumed.evaluation.num_envs) == ([], False, None)
    assert resumed.evaluation.episodes == 3 and "hydra" not in resumed  # its own, where it has it


def test_a_file_in_the_current_folder_hides_no_package(worlds):
    (worlds / "vmas.py").write_text("raise RuntimeError")
    import_modules(["my_worlds"])
    assert sys.path[-1] == str(worlds) and sys.path[0] != str(worlds)


def test_a_module_that_fails_or_lacks_another_is_named_with_its_error(worlds):
    for code, says in (
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nowhere", "No module named 'nowhere'"),
    ):
        (worlds / "my_worlds.py").write_text(code)
        with pytest.raises(UserError, match=f"imports names 'my_worlds'.*{says}.*Mend it"):
            import_modules(["my_worlds"])
