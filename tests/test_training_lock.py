"""One run at a time in an output folder: the second is refused, and what lies there stays."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stopped_runs import stop_at

from globediff_torchrl import UserError, load_policy, make_trainer
from globediff_torchrl.training import run_lock
from globediff_torchrl.training.run_lock import RunLock

HOLDS = """
import fcntl, sys
file = open(sys.argv[1] + "/.lock", "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("taken", flush=True)
sys.stdin.read()
"""


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def held(folder: Path) -> bool:
    """Whether another process would find the folder locked: a lock is an open file's, also within one process."""
    if not (folder / ".lock").exists():
        return False
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def other_run():
    """``other_run(folder)`` -> a process that has locked the folder as a run does."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", HOLDS, str(folder)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "taken\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_run_in_the_folder_of_one_that_goes_on_is_refused_and_changes_nothing(fast_trainer, tmp_path, other_run):
    run = tmp_path / "run"
    fast_trainer("mappo", iterations=1).train()
    waiting = fast_trainer("mappo", iterations=2, resume=run)
    waiting.lock.release()
    other, before = other_run(run), contents(run)
    starts = [
        lambda: fast_trainer("mappo", iterations=1, seed=1),
        lambda: make_trainer(resume=run, total_frames=160),
        lambda: make_trainer(resume=run),
        waiting.train,
    ]
    for start in starts:
        with pytest.raises(UserError, match=r"another run is writing to .*run, .* give another output=, or wait until"):
            start()
    assert contents(run) == before
    load_policy(run)
    other.kill()
    other.wait()
    assert (run / ".lock").exists()
    assert make_trainer(resume=run, total_frames=160).train()["frames"] == 160
    assert not (run / ".lock").exists()


def test_a_folder_is_locked_until_its_run_has_ended(fast_trainer, tmp_path):
    seen, run = [], tmp_path / "run"
    trainer = stop_at(fast_trainer(iterations=2), 80, lambda: seen.append(held(run)))
    assert held(run)
    trainer.train()
    assert seen == [True] and not (run / ".lock").exists()
    again = stop_at(make_trainer(resume=run, total_frames=240), 240, lambda: [][0])
    with pytest.raises(IndexError):
        again.train()
    assert not (run / ".lock").exists()


def test_a_start_that_is_refused_leaves_its_folder_free(fast_trainer, tmp_path):
    with pytest.raises(UserError):
        fast_trainer("mappo", "training.minibatches=7", iterations=1)
    with pytest.raises(UserError, match="has no run in it"):
        make_trainer(resume=tmp_path)
    assert not list(tmp_path.rglob(".lock"))


def test_of_two_trainers_of_one_process_the_later_one_frees_the_folder(fast_trainer, tmp_path):
    first = fast_trainer("mappo", iterations=1)
    second = fast_trainer("mappo", iterations=1, seed=1)
    second.train()
    assert not (tmp_path / "run" / ".lock").exists()  # though the first one may train yet
    first.train()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_trainer_that_is_dropped_frees_its_folder(fast_trainer, tmp_path):
    trainer = fast_trainer("mappo", iterations=1)
    assert held(tmp_path / "run")
    del trainer
    gc.collect()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_folder_that_was_moved_or_made_anew_is_another_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    lock = RunLock(tmp_path / "one")
    lock.take()
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "two").rename(tmp_path / "one")
    with RunLock(tmp_path / "one"):
        assert held(tmp_path / "one") and held(tmp_path / "moved")
    with RunLock(tmp_path / "moved"):
        assert lock.file is None
    assert not list(tmp_path.rglob(".lock"))


def test_a_lock_that_was_removed_by_its_owner_s_end_is_taken_anew(tmp_path, monkeypatch):
    at_once, calls = run_lock.lock_at_once, []

    def just_ended(file):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        return at_once(file)

    monkeypatch.setattr(run_lock, "lock_at_once", just_ended)
    with RunLock(tmp_path):
        assert held(tmp_path) and len(calls) == 2


def test_a_process_that_was_forked_from_a_killed_run_holds_no_lock(tmp_path):
    lock = RunLock(tmp_path)
    lock.take()
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    child = context.Process(target=lambda: (begun.set(), end.wait()))
    child.start()
    assert begun.wait(60)
    os.close(lock.file)  # what a kill does
    lock.file = None
    try:
        assert not held(tmp_path)
    finally:
        end.set()
        child.join()


def test_nothing_is_locked_where_there_is_no_flock(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    with RunLock(tmp_path):
        assert not list(tmp_path.iterdir())
