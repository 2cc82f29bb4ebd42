"""What an iteration logs of its batch and of the simulators, and how long the evaluation's simulators live."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.trainers.trainers import EarlyStopping

from globediff_torchrl.envs.processes.crashed import drop_crashed
from globediff_torchrl.envs.vmas import PRESETS, scenarios
from globediff_torchrl.errors import UserError
from globediff_torchrl.training import rollouts
from globediff_torchrl.training.metrics import batch_counts, batch_metrics


def batch_of(done, crashed=None, **readings):
    """Two environments, three steps, two agents whose returns grow by 1 and 3 a step."""
    done = torch.tensor(done).bool().unsqueeze(-1)
    returns = torch.arange(1.0, 4.0).view(1, 3, 1, 1) * torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
    following = {"done": done, "success": done.clone(), **readings}
    following["agents"] = TensorDict({"episode_reward": returns.expand(2, 3, 2, 1)}, [2, 3, 2])
    if crashed is not None:
        following["crashed"] = torch.tensor(crashed).bool().unsqueeze(-1)
    agents = TensorDict({"active_mask": torch.ones(2, 3, 2, 1, dtype=torch.bool)}, [2, 3, 2])
    return TensorDict({"agents": agents, "next": TensorDict(following, [2, 3])}, [2, 3])


def test_the_episodes_that_ended_are_counted_and_averaged():
    batch, none = batch_of([[0, 1, 0], [0, 0, 1]]), batch_of([[0, 0, 0], [0, 0, 0]])
    assert batch_metrics(batch) == {"return": 5.0, "success": 1.0, "log_pbar": True}  # 4 and 6
    assert batch_counts(batch) == {"episodes": 2}
    assert batch_metrics(none) == {} and batch_counts(none) == {"episodes": 0}, "none ended: nothing to average"


def test_the_error_of_the_pretraining_reaches_the_logger_though_no_frame_is_collected_yet(fast_trainer, tmp_path):
    trainer = fast_trainer("globediff", "logger=csv", iterations=1)
    trainer.train()
    (file,) = (tmp_path / "run" / "logs").rglob("*state_error.csv")
    step, value = file.read_text().splitlines()[-1].split(",")
    assert int(step) == 0 and float(value) == pytest.approx(trainer.table.rows[0]["pretraining/state_error"])


@pytest.mark.parametrize("value", [torch.ones(2), np.ones(2), [1.0, 2.0], "high", None])
def test_a_hook_that_logs_no_number_is_named(fast_trainer, value):
    trainer = fast_trainer("mappo", iterations=1)
    trainer.register_op("pre_steps_log", lambda batch: {"mine": value})
    with pytest.raises(UserError, match=r"logs mine, expected one number, got .*mine_0 and mine_1"):
        trainer.train()


def test_torchrls_early_stopping_finds_what_was_logged_and_the_trainer_keeps_but_the_last(fast_trainer, tmp_path):
    made = []
    for resume in (None, tmp_path / "run"):
        trainer = fast_trainer("mappo", iterations=6, resume=resume)
        made.append(EarlyStopping(monitor="return", min_delta=1e9, patience=160, wait_for=0))
        made[-1].register(trainer)
        trainer.train()
        assert {len(values) for values in trainer._log_dict.values()} == {1}
        assert trainer._log_dict["return"] == [trainer.table.rows[-1]["return"]]
        frames = trainer.collected_frames
        assert frames == (240 if resume is None else 320)  # the third iteration; of the resumed run the first one
    assert made[0].best_score == made[1].best_score == trainer.table.rows[0]["return"]


def test_a_crashed_episode_is_not_counted_and_the_engines_are_added_up():
    readings = {
        "crashes": torch.tensor([[0, 0, 0], [0, 0, 4]]).unsqueeze(-1),
        "engine_memory": torch.tensor([[9.0, 9.0, 100.0], [9.0, 9.0, 50.0]]).unsqueeze(-1),
        "engine_processes": torch.tensor([[9, 9, 1], [9, 9, 2]]).unsqueeze(-1),
    }
    batch = drop_crashed(batch_of([[0, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 1]], **readings))
    engine = {"engine/crashes": 4, "engine/memory_mb": 150, "engine/processes": 3, "engine/dropped_steps": 3}
    assert batch_counts(batch) == {**engine, "episodes": 1}
    assert batch_metrics(batch) == {"return": 4.0, "success": 1.0, "log_pbar": True}


@pytest.mark.parametrize(("family", "made"), [("vmas", 1), ("smac", 2), ("smacv2", 2)])
def test_engines_live_for_one_evaluation_and_cheap_simulators_until_the_last(fast_trainer, monkeypatch, family, made):
    trainer, envs = fast_trainer("mappo"), []
    create = rollouts.env_from_config

    def recorded(config, **kwargs):
        config = config.copy()
        config.env.family = "vmas"  # nothing of StarCraft is needed to be opened and closed
        envs.append(create(config, **kwargs))
        return envs[-1]

    monkeypatch.setattr(rollouts, "env_from_config", recorded)
    trainer.config.env.family = family
    run = rollouts.make_evaluator(trainer)
    first, second = run(False), run(False)
    assert first == second, "the same episodes, whoever plays them"
    assert len(envs) == made and all(env.is_closed == (family != "vmas") for env in envs)
    run(True)
    assert all(env.is_closed for env in envs)


class SevenSteps(scenarios.Hunt):
    """Ends every episode at its seventh step, by itself."""

    def reset_world_at(self, env_index=None):
        super().reset_world_at(env_index)
        rows = slice(None) if env_index is None else env_index
        if env_index is None:
            self.clock = torch.zeros(self.world.batch_dim)
        self.clock[rows] = 0

    def post_step(self):
        super().post_step()
        self.clock += 1

    def done(self):
        return self.clock >= 7


def test_no_episode_is_thrown_away_at_a_batchs_end_where_a_scenario_ends_them_itself(
    fast_trainer, monkeypatch, progress, tmp_path
):
    """In 7 batches of 10 steps each of 8 environments ends 10; reset at each batch it would end 7, the first ones."""
    monkeypatch.setitem(PRESETS, "seven", replace(PRESETS["hunt"], scenario=SevenSteps))
    fast_trainer("mappo", env="vmas/seven", iterations=7).train()
    episodes = [float(row["episodes"]) for row in progress(tmp_path / "run")]
    assert sum(episodes) == 80 and episodes[0] == 8
