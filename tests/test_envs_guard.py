"""The guard: whatever an environment does, the run goes on or ends with one message, and no process is left."""

import gc
import os
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from scripted_env import ScriptedEnv
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs
from torchrl.objectives.value import MultiAgentGAE

from globediff_torchrl.envs.crashed import crashed_steps, drop_crashed
from globediff_torchrl.envs.guard import GuardedEnv
from globediff_torchrl.envs.parallel import parallel_env
from globediff_torchrl.envs.processes import children, die_with_parent, kill_processes, resident_memory
from globediff_torchrl.errors import TrainingError, UserError


def scripted(folder, script, seed=None):
    return ScriptedEnv(folder, script, seed=seed, worker=(seed or 0) % 10)


def guarded(folder, script=None, seed=None, **kwargs):
    settings = {"pause": 0.02, "step_timeout": 1.0, "reset_timeout": 1.0, "seed": seed, **kwargs}
    return GuardedEnv(partial(scripted, folder, script or {}, seed), **settings)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def flags(rollout, *key):
    return rollout[key].flatten().int().tolist()


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = set(children())
    yield
    assert wait_until(lambda: not [pid for pid in set(children()) - before if alive(pid) and not is_tracker(pid)])


def is_tracker(pid):
    """multiprocessing's own helper, which lives as long as the process."""
    return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_healthy_environment_is_what_it_was_but_for_three_keys(tmp_path):
    env, bare = guarded(tmp_path), ScriptedEnv(tmp_path)
    check_env_specs(env)
    rollouts = [each.rollout(12, break_when_any_done=False) for each in (env, bare)]
    ours = rollouts[0].exclude("crashed", "crashes", "engine_memory", "truncated", ("agents", "action"))
    ours = ours.exclude(*[("next", key) for key in ("crashed", "crashes", "engine_memory", "truncated")])
    theirs = rollouts[1].exclude(("agents", "action"))
    assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
    assert (ours == theirs).all()
    assert not rollouts[0]["next", "crashed"].any() and not rollouts[0]["next", "truncated"].any()
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
    monkeypatch.setattr("globediff_torchrl.envs.guard.time.sleep", pauses.append)
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


def batch_of(done, crashed, **values):
    done, crashed = torch.tensor(done).bool().unsqueeze(-1), torch.tensor(crashed).bool().unsqueeze(-1)
    shape = done.shape[:-1]
    agents = TensorDict({"observation": torch.zeros(*shape, 2, 3)}, [*shape, 2])
    following = TensorDict({"done": done, "terminated": done & ~crashed, "crashed": crashed}, shape)
    return TensorDict({"agents": agents, "next": following, **values}, shape)


def test_every_step_of_a_crashed_episode_is_dropped_and_no_other():
    batch = batch_of(
        [[0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
    )
    expected = [[0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert crashed_steps(batch).squeeze(-1).int().tolist() == expected
    dropped = drop_crashed(batch)
    assert (~dropped["valid"]).squeeze(-1).int().tolist() == expected
    assert torch.equal(dropped["agents", "active_mask"], dropped["valid"].unsqueeze(-2).expand(-1, -1, 2, -1))


def test_the_dead_stay_dead_where_nothing_crashed():
    batch = batch_of([[0, 0, 1]], [[0, 0, 0]])
    batch["agents", "active_mask"] = torch.tensor([[[[1], [0]], [[1], [1]], [[0], [1]]]]).bool()
    before = batch["agents", "active_mask"].clone()
    assert torch.equal(drop_crashed(batch)["agents", "active_mask"], before)


def test_a_batch_of_an_unguarded_environment_is_returned_as_it_is():
    batch = batch_of([[0, 1]], [[0, 0]]).exclude(("next", "crashed"))
    assert drop_crashed(batch) is batch and "valid" not in batch


def test_nothing_of_a_crashed_episode_reaches_the_advantages_of_others():
    done, crashed = [[0, 1, 0, 0, 1, 0, 0, 1]], [[0, 0, 0, 0, 1, 0, 0, 0]]
    gae = MultiAgentGAE(gamma=0.9, lmbda=0.9, value_network=None)
    gae.set_keys(value=("agents", "state_value"), reward=("agents", "reward"), advantage=("agents", "advantage"),
                 value_target=("agents", "value_target"), done="done", terminated="terminated")  # fmt: skip
    results = []
    for seed in (0, 1):
        torch.manual_seed(5)
        values = torch.randn(3, 1, 8, 2, 1)
        torch.manual_seed(seed)
        values[:, :, 2:5] = torch.randn(3, 1, 3, 2, 1)  # other rewards and values in the crashed episode
        batch = batch_of(done, crashed)
        batch["agents", "state_value"], batch["next", "agents", "state_value"] = values[0], values[1]
        batch["next", "agents", "reward"] = values[2]
        drop_crashed(batch)
        gae(batch)
        results.append(batch)
    kept = results[0]["agents", "active_mask"]
    assert kept.sum() == 10
    first, second = (batch["agents", "advantage"][kept] for batch in results)
    assert torch.equal(first, second)


def test_two_workers_one_crashes_and_only_its_episode_is_lost(tmp_path):
    threads = torch.get_num_threads()
    env = parallel_env(partial(guarded, tmp_path, {"crash": 3, "once": True, "worker": 1, "child": True}), 2, [10, 11])
    assert env.batch_size == torch.Size([2]) and torch.get_num_threads() == threads
    env.set_seed(100)
    rollout = env.rollout(6, break_when_any_done=False)
    assert rollout["next", "crashed"].squeeze(-1).int().tolist() == [[0] * 6, [0, 0, 1, 0, 0, 0]]
    assert rollout["next", "done"].squeeze(-1).int().tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]]
    seeds = rollout["state"][:, 0, 1]
    assert seeds[0] == 100 and seeds[1] != seeds[0]
    assert rollout["state"][1, 5, 1] != seeds[1]
    workers = {int(pid) for pid in rollout["state"][:, 0, 3]}
    assert len(workers) == 2 and os.getpid() not in workers
    grandchildren = [child for pid in workers for child in children(pid)]
    assert len(grandchildren) == 2
    env.close()
    env.close()
    assert wait_until(lambda: not any(map(alive, [*workers, *grandchildren])))
    assert torch.get_num_threads() == threads


def test_a_killed_worker_ends_all_with_one_message_and_takes_its_child_with_it(tmp_path):
    env = parallel_env(partial(guarded, tmp_path, {"child": True}), 2, [10, 11])
    td = env.reset()
    workers = [int(pid) for pid in td["state"][:, 3]]
    grandchildren = [child for pid in workers for child in children(pid)]
    assert len(grandchildren) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert wait_until(lambda: not alive(grandchildren[0]))
    with pytest.raises(TrainingError, match=r"died without a word.*-9"):
        env.step(env.rand_action(td))
    assert wait_until(lambda: not any(map(alive, [*workers, *grandchildren])))
    env.close()


def test_what_a_worker_raises_is_raised_here_and_the_other_ends(tmp_path):
    with pytest.raises(TrainingError, match=r"environment 1 of 2: .*ConnectionError: no engine today"):
        parallel_env(partial(guarded, tmp_path, {"refuse": 9, "worker": 1}, retries=1), 2, [10, 11])


def test_one_environment_runs_in_this_process_with_a_batch_dimension(tmp_path):
    env = parallel_env(partial(guarded, tmp_path, {"child": True}), 1, [10])
    assert env.rollout(3)["state"][0, 0, 3] == os.getpid()
    assert env.batch_size == torch.Size([1])
    env.close()
    env.close()


def test_seeds_must_be_as_many_as_environments(tmp_path):
    with pytest.raises(UserError, match="one for each of the 3 environments"):
        parallel_env(partial(guarded, tmp_path), 3, [1, 2])
