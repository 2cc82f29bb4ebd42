"""The policy of a run: its weights act as they were trained, wherever the run ended and wherever it is loaded."""

from __future__ import annotations

import shutil

import pytest
import torch
from stopped_runs import checkpoints, stop_at
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import UserError, load_policy
from globediff_torchrl import keys as k

CHECKPOINTS = ["checkpoint.every_frames=80", "checkpoint.keep_last=2"]


def copied(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_tensors(one, two) -> None:
    assert set(one) == set(two) and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("algorithm", ["globediff", "mappo"])
def test_loaded_weights_act_as_the_trained_policy(fast_trainer, tmp_path, algorithm):
    trainer = fast_trainer(algorithm, iterations=2)
    trainer.train()
    env, policy = load_policy(tmp_path / "run", num_envs=3, seed=7)
    assert env.batch_size == (3,) and env.task.name == "vmas/hunt"
    data = env.rollout(4)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        one, two = (module(data.clone())[k.ACTION] for module in (policy, trainer.team.policy))
    torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-5)  # where memory lies decides the last bit


@pytest.mark.parametrize("algorithm", ["globediff", "mappo", "oracle"])
def test_a_run_that_has_not_ended_lends_the_policy_of_its_newest_whole_checkpoint(fast_trainer, tmp_path, algorithm):
    trainer = fast_trainer(algorithm, *CHECKPOINTS, iterations=3)
    weights = []
    trainer.register_op("post_steps_log", lambda batch: weights.append(copied(trainer.team.policy)))
    trainer.train()
    whole = load_policy(tmp_path / "run", num_envs=3)[1]
    same_tensors(whole.state_dict(), weights[2])
    (tmp_path / "run" / "policy.safetensors").unlink()
    same_tensors(load_policy(tmp_path / "run", num_envs=3)[1].state_dict(), weights[2])
    newest = checkpoints(tmp_path / "run")[-1]
    next(newest.rglob("*collector/state.pt")).write_bytes(b"torn")
    same_tensors(load_policy(tmp_path / "run", num_envs=3)[1].state_dict(), weights[1])
    assert newest.exists()  # the run may be going on: nothing of it is moved


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill():
    raise Killed


def test_a_run_that_goes_on_lends_its_newest_checkpoint_and_is_no_longer_complete(fast_trainer, tmp_path):
    fast_trainer("mappo", *CHECKPOINTS, iterations=1).train()
    resumed = fast_trainer("mappo", *CHECKPOINTS, iterations=4, resume=tmp_path / "run")
    summary = tmp_path / "run" / "summary.json"
    assert summary.exists()  # nothing has been trained yet
    weights = []
    resumed.register_op("post_steps_log", lambda batch: weights.append(copied(resumed.team.policy)))
    with pytest.raises(Killed):
        stop_at(resumed, 240, kill).train()
    assert checkpoints(tmp_path / "run")[-1].name.endswith("0160") and not summary.exists()
    same_tensors(load_policy(tmp_path / "run", num_envs=3)[1].state_dict(), weights[0])
    results = fast_trainer("mappo", *CHECKPOINTS, iterations=4, resume=tmp_path / "run").train()
    assert results["complete"] and summary.exists()


def test_a_policy_of_a_stopped_run_whose_checkpoints_are_gone_is_put_aside_by_a_resume(fast_trainer, tmp_path, capsys):
    run, kept = tmp_path / "run", tmp_path / "run" / "previous" / "1"
    stop_at(fast_trainer("mappo", iterations=2), 80).train()
    weights = (run / "policy.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints")
    assert fast_trainer("mappo", iterations=2, resume=run).collected_frames == 0
    assert "no whole checkpoint to go on from, and begins anew" in capsys.readouterr().out
    assert (kept / "policy.safetensors").read_bytes() == weights and load_policy(kept, num_envs=2)
    assert not (run / "policy.safetensors").exists() and not (run / "summary.json").exists()


def test_a_loaded_policy_is_for_use_and_lies_where_it_is_asked_for(fast_trainer, tmp_path):
    fast_trainer("globediff", iterations=1).train()
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda:99"))
    with pytest.raises(UserError, match="cuda:99"):
        load_policy(tmp_path / "run")
    env, policy = load_policy(tmp_path / "run", num_envs=2, device="cpu")
    assert env.device == torch.device("cpu") and not policy.training
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    rollout = env.rollout(5, policy)
    assert not rollout["agents", "action"].requires_grad
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = [policy(rollout[:, 0].clone())["agents", "action"] for _ in range(2)]
    assert not torch.equal(*drawn)  # evaluation mode does not take the exploration away


def test_a_policy_goes_into_another_world_by_the_arguments_that_are_given(fast_trainer, tmp_path):
    fast_trainer("globediff", iterations=1).train()
    run = tmp_path / "run"
    env, policy = load_policy(run, num_envs=2, max_steps=7, box=0.5)
    assert env.task.max_steps == 7 and env.base_env.scenario.box == 0.5
    assert env.rollout(7, policy)["next", "done"].any()
    with pytest.raises(UserError, match=r"with \{'history': 1\}, expected .* as many numbers"):
        load_policy(run, num_envs=2, history=1)


def test_what_was_put_aside_is_named_where_nothing_else_is_left(fast_trainer, tmp_path):
    fast_trainer("mappo", iterations=1).train()
    fast_trainer("mappo", iterations=1)  # made, and not trained
    with pytest.raises(UserError, match=r"the run before it is in .*previous.1"):
        load_policy(tmp_path / "run")
    assert load_policy(tmp_path / "run" / "previous" / "1", num_envs=2)


def test_weights_that_are_missing_or_do_not_fit_are_one_clear_error(fast_trainer, tmp_path):
    with pytest.raises(UserError, match=r"no config.yaml"):
        load_policy(tmp_path)
    fast_trainer("mappo", iterations=1).train()
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("- 16", "- 17"))
    with pytest.raises(UserError, match="does not fit"):
        load_policy(tmp_path / "run")
