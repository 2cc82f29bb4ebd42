"""The doctor: it works on a machine with nothing, finds what is there, and its exit code says what was asked for."""

import importlib.util
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from globediff_torchrl import doctor, envs
from globediff_torchrl.envs.processes import children as processes
from globediff_torchrl.envs.processes.guard import GuardedEnv
from globediff_torchrl.envs.smac import SmacEnv, install
from globediff_torchrl.errors import UserError
from globediff_torchrl.training import config as configuration

SCRIPT = doctor.__file__


def report(capsys, *arguments):
    code = doctor.main([*arguments])
    return code, capsys.readouterr().out.splitlines()


def lines_with(lines, *words):
    return [line for line in lines if all(word in line for word in words)]


@pytest.fixture
def no_game(monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))


@pytest.fixture
def game(monkeypatch, tmp_path):
    """A folder that looks like StarCraft II's, with an engine that is none."""
    engine = tmp_path / "Versions" / "Base75689" / "SC2_x64"
    engine.parent.mkdir(parents=True)
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    maps = tmp_path / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    from globediff_torchrl.envs.smac.maps import SMACV1_MAPS

    for name in (*SMACV1_MAPS, "32x32_flat"):
        (maps / f"{name}.SC2Map").touch()
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    return tmp_path


def test_without_starcraft_it_ends_well_says_what_is_missing_and_offers_a_fix(no_game, capsys):
    code, lines = report(capsys, "--launch", "none")
    assert code == 0
    assert lines_with(lines, "missing", "no folder", "nowhere", "->")
    assert lines[-3:-1] == ["VMAS: ready", lines[-2]] and lines[-1].startswith("SMAC and SMACv2: not ready")
    assert len(lines) <= 40
    assert all("->" in line for line in lines if line.startswith("missing"))


def test_what_is_required_and_missing_makes_the_exit_code_one(no_game, capsys):
    assert report(capsys, "--launch", "none", "--require", "smac")[0] == 1
    assert report(capsys, "--launch", "none", "--require", "vmas")[0] == 0


def test_a_whole_game_folder_is_recognised(game, capsys):
    lines = report(capsys, "--launch", "none")[1]
    assert lines_with(lines, "ok ", "builds 75689")
    assert lines_with(lines, "ok ", "23 maps")


@pytest.mark.parametrize(
    ("folder", "file", "there"),
    [
        ("Base75689", "SC2_x64", True),
        ("Base75689", "SC2_x64.exe", True),
        ("Base75689", "SC2Data", False),
        ("BaseOld", "SC2_x64", False),
    ],
)
def test_the_doctor_and_a_battle_take_the_same_files_for_an_engine(game, capsys, folder, file, there):
    base = (game / "Versions" / "Base75689").rename(game / "Versions" / folder)
    (base / "SC2_x64").rename(base / file)
    assert (not lines_with(report(capsys, "--launch", "none")[1], "missing", "the engine")) == there
    assert (not any("StarCraft II" in line for line in install.missing())) == there


def test_missing_maps_are_named(game, capsys):
    for name in ("MMM2", "32x32_flat"):
        (game / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").unlink()
    (line,) = lines_with(report(capsys, "--launch", "none")[1], "missing", "maps MMM2, 32x32_flat ->")
    assert line.endswith(f"into {game / 'Maps' / 'SMAC_Maps'}"), "the archive has no folder in it"
    assert "smacv2/env/starcraft2/maps/SMAC_Maps/SMAC_Maps.zip" in line


def test_a_launch_has_the_time_that_a_run_gives_it(monkeypatch):
    given, run = {}, configuration.compose("smac").env

    def make_env(name, **kwargs):
        given.update(kwargs)
        raise RuntimeError("no engine today")

    monkeypatch.setattr(envs, "make_env", make_env)
    (finding,) = doctor.check_launch("smac/3m", "smac")
    assert "no engine today" in finding.text and given["retries"] == 0
    limits = {**parameters(GuardedEnv), **parameters(SmacEnv), **given}
    for name in ("step_timeout", "reset_timeout", "engine_timeout"):
        assert limits[name] == run[name]


def test_the_doctor_goes_on_for_a_user_without_a_home(monkeypatch, capsys, no_home):
    monkeypatch.delenv("SC2PATH", raising=False)
    lines = report(capsys, "--launch", "none")[1]
    assert lines_with(lines, "missing", "no folder ~/StarCraftII (SC2PATH is not set)")


def parameters(kind):
    return {name: parameter.default for name, parameter in inspect.signature(kind.__init__).parameters.items()}


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_sc2path_is_none(game, monkeypatch, there):
    """pysc2 would take it for the folder of no name."""
    monkeypatch.setenv("HOME", str(game / "home"))
    monkeypatch.setenv("SC2PATH", "")
    if there:
        (game / "home").mkdir()
        (game / "home" / "StarCraftII").symlink_to(game)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: real("json" if name in ("smacv2", "pysc2") else name, *rest)
    )
    if there:
        install.check_installed("3m")
        assert "SC2PATH" not in os.environ
    else:
        with pytest.raises(UserError, match=r"in .*home/StarCraftII \(SC2PATH is empty\)"):
            install.check_installed("3m")


@pytest.mark.parametrize(
    ("build", "mode", "state", "says"),
    [
        ("Base75689", 0o644, "missing", "chmod +x"),
        ("Base50000", 0o755, "missing", "55958"),
        ("Base90136", 0o755, "warning", "75689"),
    ],
)
def test_an_engine_that_will_not_do_is_told(game, capsys, build, mode, state, says):
    base = (game / "Versions" / "Base75689").rename(game / "Versions" / build)
    (base / "SC2_x64").chmod(mode)
    assert lines_with(report(capsys, "--launch", "none")[1], state, says)


def test_another_version_than_the_tested_one_is_a_warning(monkeypatch, no_game, capsys):
    monkeypatch.setattr(doctor, "pins", lambda: {"torch": "1.0"})
    code, lines = report(capsys, "--launch", "none")
    assert code == 0 and lines_with(lines, "warning", "torch", "tested with 1.0")


@pytest.mark.parametrize(("version", "state"), [("3.20.3", "ok "), ("3.21.0", "warning"), ("7.36.2", "warning")])
def test_a_protobuf_that_the_engine_s_messages_will_not_take_is_a_warning(monkeypatch, no_game, capsys, version, state):
    real = importlib.util.find_spec
    missing = ("s2clientprotocol", "pysc2", "smacv2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in missing else real(name, *rest))
    monkeypatch.setattr(doctor, "installed_version", lambda name: version)
    lines = report(capsys, "--launch", "none")[1]
    found = lines_with(lines, state, f"protobuf {version}")
    assert len(found) == 1 and ("protobuf<3.21" in found[0]) == (state == "warning")
    assert lines_with(lines, "missing", "pysc2", "constraints-smac.txt", "docs/smac.md")


def test_it_runs_ten_steps_and_tells_of_a_launch_that_fails(no_game, capsys):
    code, lines = report(capsys, "--launch", "3m")
    assert code == 1
    assert lines_with(lines, "ok ", "vmas/hunt runs: ten steps")
    assert lines_with(lines, "missing", "smac/3m does not run")


def test_engines_left_behind_are_named_with_the_command_that_ends_them(monkeypatch, no_game, capsys):
    monkeypatch.setattr(processes, "engines", lambda: [(4711, 1), (4712, 99)])
    lines = report(capsys, "--launch", "none")[1]
    assert lines_with(lines, "warning", "1 engines", "kill 4711") and not lines_with(lines, "4712")


def test_a_running_engine_is_found_by_its_name(tmp_path):
    engine = tmp_path / "SC2_x64"
    engine.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(engine), "1000"])
    try:
        for _ in range(100):  # its command line is there a moment after its start
            if found := (process.pid, os.getpid()) in processes.engines():
                break
            time.sleep(0.05)
        assert found
    finally:
        process.kill()
        process.wait()


def test_without_torch_it_says_so_within_seconds_and_fails(tmp_path):
    """The file is run by itself, in a python that finds no torch, vmas, jax or pysc2."""
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(
        "import sys, importlib.abc\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "names = ('torch', 'torchrl', 'tensordict', 'vmas', 'jax', 'jaxmarl', 'pysc2', 's2clientprotocol', 'smacv2')\n"
        "importlib.util.find_spec = lambda name, *rest: None if name.split('.')[0] in names else find(name, *rest)\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in names: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SC2PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "missing  python package torch -> pip install" in done.stdout
    assert "VMAS: not ready, 4 missing" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_console_script_names_a_function_that_is_there():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert 'globediff-doctor = "globediff_torchrl.doctor:main"' in text and callable(doctor.main)
