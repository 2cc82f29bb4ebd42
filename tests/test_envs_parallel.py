"""Environments in processes of their own: they end together, with one message, and leave no process."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch
from process_watch import alive, wait_until
from scripted_env import guarded
from torchrl.envs import SerialEnv

from globediff_torchrl.envs.processes.children import children
from globediff_torchrl.envs.processes.parallel import parallel_env
from globediff_torchrl.errors import TrainingError, UserError

pytestmark = pytest.mark.usefixtures("no_process_is_left")


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


def steps_of(env, count):
    """Every entry of a number of steps, and of the next ones' beginnings; all that was given is overwritten."""
    env.set_seed(100)
    torch.manual_seed(0)
    found, given = [], env.reset()
    for _ in range(count):
        stepped, after = env.step_and_maybe_reset(env.rand_action(given))
        found += [stepped.clone(), after.clone()]
        given = after.clone()
        for spoilt in (stepped, after):
            spoilt.apply_(lambda entry: entry.zero_())
    return found


@pytest.mark.parametrize("script", [{}, {"crash": 3, "once": True}, {"crash": 4}])
def test_one_environment_gives_what_torchrls_serial_env_gives(script, tmp_path):
    found = []
    for kind in ("ours", "torchrl"):
        (tmp_path / kind).mkdir()
        create = partial(guarded, tmp_path / kind, script)
        env = (
            parallel_env(create, 1, [10]) if kind == "ours" else SerialEnv(1, create, create_env_kwargs=[{"seed": 10}])
        )
        found.append(steps_of(env, 14))
        env.close()
    for ours, theirs in zip(*found):
        assert set(ours.keys()) == set(theirs.keys()) and (ours == theirs).all()
    assert sum(step["next", "done"].any() for step in found[0][::2]) > 1


def test_one_environment_that_is_not_stepped_stays_where_it_is(tmp_path):
    env = parallel_env(partial(guarded, tmp_path), 1, [10])
    td = env.step(env.rand_action(env.reset()))["next"].exclude(("agents", "reward"))
    skipped = env.step(env.rand_action(td).set("_step", torch.tensor([False])))
    assert (skipped["next", "state"] == td["state"]).all()
    assert env.step(env.rand_action(td))["next", "state"][0, 0] == 2
    env.close()


def test_seeds_must_be_as_many_as_environments(tmp_path):
    with pytest.raises(UserError, match="one for each of the 3 environments"):
        parallel_env(partial(guarded, tmp_path), 3, [1, 2])
