"""The guard: whatever an environment does, the run goes on or ends with one message, and no process is left."""

from __future__ import annotations

import gc
import signal
import subprocess
import threading
import time

import pytest
import torch
from process_watch import alive, wait_until
from scripted_env import ScriptedEnv, guarded
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs.processes.children import children, die_with_parent, kill_processes, resident_memory
from globediff_torchrl.envs.processes.guard import GuardedEnv
from globediff_torchrl.errors import TrainingError, UserError

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def flags(rollout, *key):
    return rollout[key].flatten().int().tolist()


def test_a_healthy_environment_is_what_it_was_but_for_what_the_guard_writes(tmp_path):
    env, bare = guarded(tmp_path), ScriptedEnv(tmp_path)
    check_env_specs(env)
    rollouts = [each.rollout(12, break_when_any_done=False) for each in (env, bare)]
    written = ("crashed", "crashes", "engine_memory", "engine_processes", "truncated")
    ours = rollouts[0].exclude(*written, *[("next", key) for key in written], ("agents", "action"))
    theirs = rollouts[1].exclude(("agents", "action"))
    assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
    assert (ours == theirs).all()
    assert not rollouts[0]["next", "crashed"].any() and not rollouts[0]["next", "truncated"].any()
    assert not rollouts[0]["engine_memory"].any() and not rollouts[0]["engine_processes"].any()
    env.close()
    env.close()
    assert env.is_closed


def test_a_crash_truncates_the_episode_and_is_counted_and_no_loss(tmp_path):
    env = guarded(tmp_path, {"crash": 3, "once": True, "child": True})
    rollout = env.rollout(9, break_when_any_done=False)
    assert flags(rollout, "next", "crashed") == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert flags(rollout, "next", "truncated") == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert flags(rollout, "next", "done") == [0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert flags(rollout, "next", "terminated") == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert flags(rollout, "next", "success") == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert rollout["next", "agents", "reward"][:, 0].flatten().tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert flags(rollout, "next", "crashes") == [0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert torch.equal(rollout["next", "state"][2], rollout["state"][2])  # the last reading, repeated
    assert (rollout["engine_memory"] > 0).all()
    assert flags(rollout, "next", "engine_processes") == [1] * 9
    assert len(children()) >= 1
    env.close()


def test_a_success_before_a_crash_is_not_counted_again(tmp_path):
    env = guarded(tmp_path, {"crash": 6}, retries=9)
    env.reset()
    env.create_env = None
    env._life.env.length = 99
    env._reading["success"].fill_(True)
    assert not env._crashed_step()["success"].any()
    env.close()


def test_a_step_that_hangs_is_a_crash_and_its_frozen_child_is_killed(tmp_path):
    env = guarded(tmp_path, {"hang": 2, "once": True, "child": True})
    env.reset()
    child = env.child.pid
    began = time.monotonic()
    rollout = env.rollout(4, break_when_any_done=False)
    assert time.monotonic() - began < 8
    assert flags(rollout, "next", "crashed") == [0, 1, 0, 0]
    assert not alive(child)
    env.close()


@pytest.fixture
def ctrl_c():
    """A shell that runs the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("answers_late", [True, False])
def test_after_ctrl_c_no_answer_of_the_interrupted_call_passes_for_another(tmp_path, ctrl_c, answers_late):
    env = guarded(tmp_path, {"child": True}, step_timeout=60)
    td = env.step(env.rand_action(env.reset()))["next"]
    go_on, old, child = threading.Event(), env._life, env.child.pid
    step, main = old.env._step, threading.main_thread().ident

    def interrupted(tensordict):
        time.sleep(0.5)  # until the other thread waits
        signal.pthread_kill(main, signal.SIGINT)
        go_on.wait(60)
        return step(tensordict)

    old.env._step = interrupted
    with pytest.raises(KeyboardInterrupt):
        env.step(env.rand_action(td.clone()))
    began = time.monotonic()
    if answers_late:
        go_on.set()
        assert wait_until(lambda: not old.thread._answers.empty())
    else:
        lost = env.step(env.rand_action(td.clone()))["next"]
        assert lost["crashed"] and lost["truncated"] and (lost["agents", "reward"] == 0).all()
    td = env.reset()
    counts = [int(td["state"][0])]
    for _ in range(3):
        td = env.step(env.rand_action(td))["next"]
        counts.append(int(td["state"][0]))
    assert counts == [0, 1, 2, 3] and td["crashes"] == 0
    assert time.monotonic() - began < 30 and not alive(child)
    go_on.set()
    env.close()


@pytest.mark.parametrize("what", ["crash_reset", "hang_reset"])
def test_a_reset_that_fails_once_is_tried_again(tmp_path, what):
    env = guarded(tmp_path, {what: True, "once": True})
    assert env.reset()["crashes"].item() == 1
    env.close()


def test_as_many_failures_in_a_row_as_allowed_are_mended_and_one_more_ends_with_one_message(tmp_path):
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
    env = guarded(tmp_path / "few", {"refuse": 3})
    assert env.reset()["crashes"].item() == 3
    env.close()
    with pytest.raises(TrainingError, match=r"crashed 4 times in a row.*no engine today.*globediff-doctor"):
        guarded(tmp_path / "many", {"refuse": 4})


@pytest.mark.parametrize("script", [{"refuse": 4}, {"crash": 2}, {"hang": 2}, {"hang_reset": True}])
def test_what_an_engine_prints_is_not_seen_and_its_last_lines_stand_in_the_message_of_a_crash(tmp_path, capfd, script):
    """Of many lines the last five, whether it could not start, raised or did not answer; both of its streams."""
    lines = [f"line {n}" for n in range(2000)]
    with pytest.raises(TrainingError) as caught:
        guarded(tmp_path, {**script, "prints": [*lines, "no libGL"]}, retries=0).rollout(3, break_when_any_done=False)
    assert "the engine printed last: line 1996 | line 1997 | line 1998 | line 1999 | no libGL" in str(caught.value)
    assert "line" not in "".join(capfd.readouterr())


def test_what_has_somewhere_to_go_goes_there(tmp_path, capfd):
    """Output that the environment reads itself; and that of a thread which is bound to nothing."""
    heard = []

    def create():
        heard.append(subprocess.run(["echo", "to a pipe"], stdout=subprocess.PIPE, text=True).stdout)
        return ScriptedEnv(tmp_path)

    GuardedEnv(create).close()
    subprocess.run(["echo", "to the terminal"])
    assert heard == ["to a pipe\n"] and capfd.readouterr().out == "to the terminal\n"


def test_an_environment_that_crashes_in_every_episode_ends_the_run(tmp_path):
    env = guarded(tmp_path, {"crash": 2})
    with pytest.raises(TrainingError, match=r"4 times in a row.*lost the engine"):
        env.rollout(100, break_when_any_done=False)
    env.close()


def test_a_good_episode_between_two_crashes_begins_the_count_anew(tmp_path):
    env = guarded(tmp_path, {"crash": 5}, retries=1)
    for _ in range(4):
        td = env.reset()
        for step in range(5):
            td = env.step(env.rand_action(td))["next"]
            if step == 0:
                td = env.reset()  # cut short in good health
                break
        for _ in range(5):
            td = env.step(env.rand_action(td))["next"]
        assert td["crashed"].item()
    assert td["crashes"].item() == 4
    env.close()


def test_the_pause_between_attempts_grows(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("globediff_torchrl.envs.processes.guard.time.sleep", pauses.append)
    env = guarded(tmp_path, {"refuse": 3}, pause=1.0)
    assert pauses == [1.0, 2.0, 4.0]
    env.close()


def test_a_user_error_is_no_crash(tmp_path):
    def create():
        raise UserError("no such map")

    with pytest.raises(UserError, match="no such map"):
        GuardedEnv(create)
    env = guarded(tmp_path)
    env.reset()
    env._life.env._step = lambda td: create()
    with pytest.raises(UserError, match="no such map"):
        env.step(env.rand_action(env.reset()))
    env.close()


def test_a_restart_is_made_every_so_many_episodes_and_no_seed_comes_twice(tmp_path):
    env = guarded(tmp_path, seed=7, restart_every=2)
    env.set_seed(7)
    states = env.rollout(25, break_when_any_done=False)["state"]
    seeds = [int(seed) for seed in dict.fromkeys(states[:, 1].tolist())]
    assert [seed - 7 for seed in seeds] == [0, 100_003, 200_006]
    assert env.crash_count == 0
    env.close()
    assert env.is_closed and (tmp_path / "log7").read_text().count("closed") == 3


def test_seeds_after_crashes_are_determined(tmp_path):
    seen = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        env = guarded(tmp_path / name, {"crash": 4, "once": True})
        env.set_seed(100)
        seen.append(env.rollout(10, break_when_any_done=False)["state"][:, 1].tolist())
        env.close()
    assert seen[0] == seen[1] and len(set(seen[0])) == 2


def test_a_seed_set_after_a_crash_is_that_of_the_next_environment(tmp_path):
    env = guarded(tmp_path, {"crash": 5}, seed=3)
    seeds = []
    for seed in (None, 777, 777, None):  # the last step of each rollout crashes
        if seed is not None:
            env.set_seed(seed)
        seeds.append(int(env.rollout(5, break_when_any_done=False)["state"][0, 1]))
        env._in_a_row = 0
    assert seeds == [3, 777, 777, 777 + 100_003]
    env.close()


def test_the_first_environment_keeps_the_seed_of_its_making_and_is_not_seeded_again(tmp_path):
    env = guarded(tmp_path, {"crash": 5}, seed=3, restart_every=1)
    env.rollout(6, break_when_any_done=False)
    env.close()
    assert (tmp_path / "log3").read_text().split("\n")[:4] == ["made 3", "closed", "made 3", f"seed {3 + 100_003}"]


def test_an_environment_that_is_forgotten_leaves_no_child(tmp_path):
    env = guarded(tmp_path, {"child": True})
    child = env.child.pid
    assert alive(child)
    del env
    gc.collect()
    assert wait_until(lambda: not alive(child))


def test_children_die_with_the_thread_that_started_them_and_no_others(tmp_path):
    started, within, leave = {}, threading.Event(), threading.Event()

    def work():
        with die_with_parent():
            started["bound"] = subprocess.Popen(["sleep", "1000"])
            started["memory"] = resident_memory([started["bound"].pid])
            within.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    within.wait(10)
    free = subprocess.Popen(["sleep", "1000"])  # of another thread, meanwhile
    leave.set()
    thread.join()
    assert started["memory"] > 0
    assert started["bound"].wait(10) == -signal.SIGKILL
    assert free.poll() is None
    kill_processes([free.pid])
    assert not alive(free.pid)
