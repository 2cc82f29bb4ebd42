"""What may befall StarCraft II, on the real smacv2 with a stand-in for the engine (tests/sc2_standin): the run goes on
or ends with one message, no engine is left, and what crashed is in no statistics. No StarCraft results."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from benchmark_scripts import ROOT
from process_watch import wait_until
from sc2_standin import Knobs, install, read_log
from stopped_runs import checkpoints

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs.processes.children import children
from globediff_torchrl.envs.processes.crashed import drop_crashed, episode_ends
from globediff_torchrl.errors import TrainingError, UserError
from globediff_torchrl.evaluation.episodes import episode_metrics

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")

LENGTH = 8  # steps of an episode, ended by the time limit: the enemies' shots do nothing
FAULT = 4  # the step of the rollout before which something is done to the engine
STEPS = FAULT + 2 * LENGTH + 1


@pytest.fixture
def knobs(tmp_path, monkeypatch):
    """``knobs(refuse=1, ...)`` sets the stand-in's knobs; the engines of the test, counted before and after."""

    def choose(**values):
        Knobs(damage=0.0, log=tmp_path / "log", **values).set(monkeypatch)

    monkeypatch.setenv("SC2PATH", str(install(tmp_path)))
    choose()
    choose.log, choose.folder = tmp_path / "log", tmp_path / "StarCraftII"
    before, others = engines(choose.log), set(children())
    assert before == []
    yield choose
    wait_until(lambda: engines(choose.log) == before and not zombies(others))
    assert engines(choose.log) == before, "engines that nobody has ended"
    assert not zombies(others), "engines that nobody has reaped"


@pytest.fixture
def env(knobs):
    """``env(num_envs=1, ...)`` is smac/3m as a run uses it, closed at the end."""
    made = []

    def make(**kwargs):
        settings = {"num_envs": 1, "seed": 100, "max_steps": LENGTH, "step_timeout": 60, **kwargs}
        made.append(make_env("smac/3m", **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def engines(log):
    """Processes of the stand-in that write to ``log``, whoever their parent is now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"SC2_STANDIN_LOG={log}\0".encode() in (folder / "environ").read_bytes()
            if ours and b"\0-listen\0" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def zombies(others):
    new = set(children()) - others
    return [pid for pid in new if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"]


def play(env, fault):
    """A rollout of legal random actions; ``fault()`` is called in the middle of the first episode."""
    calls = []

    def policy(td):
        calls.append(1)
        if len(calls) == FAULT:
            fault()
        return env.rand_action(td)

    torch.manual_seed(0)
    return env.rollout(STEPS, policy, break_when_any_done=False)


def check_one_crash(rollout, crashed_env=0):
    """The crash ends that episode, what follows is whole, and neither learning nor statistics see what crashed."""
    crashed = rollout["next", "crashed"][..., 0]
    assert crashed.nonzero().tolist() == [[crashed_env, FAULT - 1]]
    ended = rollout["next", "done"][crashed_env, :, 0].nonzero()[:, 0].tolist()
    assert ended == [FAULT - 1, FAULT - 1 + LENGTH, FAULT - 1 + 2 * LENGTH], "two whole episodes follow"
    assert not rollout["next", "terminated"][crashed_env].any() and not rollout["next", "success"].any()
    assert rollout["next", "crashes"][crashed_env, -1] == 1

    metrics = episode_metrics(rollout)
    others = len(rollout) - 1
    assert {name: len(values) for name, values in metrics.items()} == dict.fromkeys(metrics, others)
    assert metrics["length"].tolist() == [LENGTH] * others
    valid = drop_crashed(rollout.clone())
    expected = torch.ones(rollout.shape, dtype=torch.bool)
    expected[crashed_env, :FAULT] = False
    assert torch.equal(valid["valid"][..., 0], expected)
    assert not valid[keys.ACTIVE_MASK][~expected].any() and valid[keys.ACTIVE_MASK][expected].any(-2).all()
    assert episode_ends(valid)[crashed_env].sum() == 2


def test_one_of_two_engines_is_killed_in_mid_episode(env, knobs):
    """By somebody else, as the kernel does for want of memory; the other environment notices nothing."""
    both = env(num_envs=2)
    rollout = play(both, lambda: os.kill(read_log(knobs.log).started[0], signal.SIGKILL))
    crashed_env = rollout["next", "crashed"].flatten(1).any(1).nonzero().item()
    check_one_crash(rollout, crashed_env)
    assert rollout["next", "crashes"][1 - crashed_env].sum() == 0
    both.close()
    log = read_log(knobs.log)
    assert len(log.started) == 3 and log.running == log.started[:1], "all others have ended in good order"


def test_an_engine_is_stopped(env, knobs):
    began = time.monotonic()
    one = env(step_timeout=4)
    one.reset()
    rollout = play(one, lambda: os.kill(read_log(knobs.log).started[0], signal.SIGSTOP))
    check_one_crash(rollout)
    assert time.monotonic() - began < 60
    one.close()
    log = read_log(knobs.log)
    assert len(log.started) == 2 and log.running == log.started[:1], "the stopped one was killed"


def test_a_run_that_is_told_to_end_leaves_a_checkpoint_and_no_engine(knobs, tmp_path):
    """SIGTERM to the process of the run alone, with two engines in the middle of battles."""
    options = ["env.map=3m", "algorithm=mappo", "env.num_envs=2", "training.frames_per_batch=32", "total_frames=1e6"]
    options += ["evaluation.every_frames=0", "checkpoint.every_frames=1e6", "progress=false", "logger=none"]
    command = [sys.executable, str(ROOT / "benchmarks" / "smac.py"), *options, f"output={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    table = tmp_path / "run" / "progress.csv"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: table.exists() or process.poll() is not None, 300)
            assert process.poll() is None and len(engines(knobs.log)) == 2
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=300)[1]
        finally:
            process.kill()
    assert process.returncode == 0 and "Traceback" not in said, said
    assert wait_until(lambda: not engines(knobs.log))
    with table.open(newline="") as file:
        frames = [int(float(row["frames"])) for row in csv.DictReader(file)]
    assert [path.name for path in checkpoints(tmp_path / "run")] == [f"checkpoint-{frames[-1]:012d}"]
    assert len(read_log(knobs.log).started) == 2


def test_an_engine_that_never_starts_ends_the_run_with_one_message(env, knobs, capfd):
    knobs(refuse=1)
    message = r"crashed 2 times in a row.*at most 1 in a row.*printed last: sc2_standin refuses to.*globediff-doctor"
    with pytest.raises(TrainingError, match=message):
        env(retries=1).reset()
    assert "sc2_standin" not in "".join(capfd.readouterr())
    log = read_log(knobs.log)
    assert len(log.started) == len(log.exits) == 2
    assert {reason for _, reason in log.exits} == {"refused"}


def test_an_engine_that_refuses_once_is_started_again(env, knobs):
    knobs(refuse=1, faulty_starts=1)
    one = env(retries=1)
    rollout = one.rollout(LENGTH)
    assert rollout["next", "done"].sum() == 1 and not rollout["next", "crashed"].any()
    assert rollout["next", "crashes"][0, -1] == 1
    assert len(episode_metrics(rollout)["length"]) == 1, "the crash was before the episode"
    one.close()
    log = read_log(knobs.log)
    first, last = (reason for _, reason in log.exits)
    assert first == "refused" and last in ("quit", "sigterm") and len(log.started) == 2, "told to go, or made to"


def test_a_port_that_somebody_else_has_taken(env, knobs, monkeypatch):
    """Between pysc2's choice of a port and the engine's start, by one who accepts and never answers."""
    import portpicker

    pick = portpicker.pick_unused_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(portpicker, "pick_unused_port", lambda *args: ports.pop() if ports else pick(*args))
        one = env(engine_timeout=6)
        rollout = one.rollout(LENGTH)
    assert not ports and rollout["next", "crashes"][0, -1] == 1 and not rollout["next", "crashed"].any()
    one.close()
    log = read_log(knobs.log)
    reasons = [reason for _, reason in log.exits]
    assert reasons[0] == "error" and len(reasons) == len(log.started) == 2
    assert reasons[1] in ("quit", "sigterm")  # on a busy machine it does not answer in time to being asked to quit


def test_a_map_that_is_not_there_is_the_users_to_mend(env, knobs):
    """Before anything is started, and also where it disappears later on."""
    one = env()
    file = knobs.folder / "Maps" / "SMAC_Maps" / "3m.SC2Map"
    file.unlink()
    for begin in (env, one.reset):
        with pytest.raises(UserError, match=r"the map Maps/SMAC_Maps/3m\.SC2Map in SC2PATH=.*docs/smac\.md") as caught:
            begin()
        assert not isinstance(caught.value, TrainingError)
    log = read_log(knobs.log)
    assert len(log.started) == len(log.exits)


def test_a_map_that_the_engine_refuses_ends_the_run_with_one_message(env, knobs):
    (knobs.folder / "Maps" / "SMAC_Maps" / "3m.SC2Map").write_bytes(b"torn")
    with pytest.raises(TrainingError, match=r"crashed 1 times in a row.*a reset: .*InvalidMap"):
        env(retries=0).reset()
    log = read_log(knobs.log)
    assert len(log.started) == 1
