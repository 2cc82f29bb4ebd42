"""A VMAS scenario says itself what is to be inferred: the target reaches models, videos and resumed runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stopped_runs import same, train_until
from torchrl.envs import check_env_specs

from globediff_torchrl import fit, keys, make_env, make_state_model, record_episode
from globediff_torchrl.envs.vmas import PRESETS, scenarios
from globediff_torchrl.layout import Feature

PLACE = Feature("target", "position", "position", 2)


class OnePlace(scenarios.Hunt):
    """The target's place, the same for both agents."""

    def target_features(self):
        return [(PLACE, self.target.state.pos)]


class OwnOffsets(scenarios.Hunt):
    """What each agent has left to go, and the place, which they share."""

    def target_features(self):
        offsets = [self.target.state.pos - agent.state.pos for agent in self.world.agents]
        offset = Feature("target", "offset", "offset", 2)
        return [(offset, torch.stack(offsets, dim=1).double()), (PLACE, self.target.state.pos)]


WORLDS = {"place": OnePlace, "offsets": OwnOffsets}


@pytest.fixture(autouse=True)
def worlds(monkeypatch):
    for name, scenario in WORLDS.items():
        monkeypatch.setitem(PRESETS, name, replace(PRESETS["hunt"], scenario=scenario))


def expected(name, state):
    """The target ``[..., 2, d_t]`` of states ``[..., d_s]`` of hunt: each agent's position and velocity, the place."""
    place = state[..., None, 8:10].expand(*state.shape[:-1], 2, 2)
    agents = torch.stack([state[..., 0:2], state[..., 4:6]], dim=-2)
    return place if name == "place" else torch.cat([place - agents, place], dim=-1)


@pytest.mark.parametrize("name", WORLDS)
def test_the_target_is_in_every_step_and_the_state_stays_whole(name):
    env = make_env(f"vmas/{name}", num_envs=3, max_steps=4)
    check_env_specs(env)
    rollout = env.rollout(9, break_when_any_done=False)  # over two resets
    for step in (rollout, rollout["next"]):
        assert step["state"].shape[-1] == 10 and step[keys.TARGET_STATE].dtype == torch.float32
        torch.testing.assert_close(step[keys.TARGET_STATE], expected(name, step["state"]))
    assert env.task.target_layout.names == tuple(f.full_name for f, _ in env.base_env._env.scenario.target_features())
    assert env.task.target_shared == (name == "place") and env.task.target_key == keys.TARGET_STATE


def test_a_world_without_a_target_infers_its_state():
    env = make_env("vmas/hunt", num_envs=2)
    assert env.task.target_key == keys.STATE and keys.TARGET_STATE not in env.reset().keys(True)


@pytest.mark.parametrize("model", ["globediff", "regressor", "oracle"])
@pytest.mark.parametrize("name", WORLDS)
def test_a_state_model_infers_the_target(name, model):
    env = make_env(f"vmas/{name}", num_envs=3, max_steps=4)
    state_model = make_state_model(model, env, **({} if model == "oracle" else {"width": 16}))
    rollout = env.rollout(8, break_when_any_done=False)
    assert state_model.infer_per == ("team" if name == "place" else "agent")
    if model != "oracle":
        fit(state_model, rollout, steps=2, batch_size=8, progress=False)
    inferred = state_model(rollout)[keys.INFERRED_STATE]
    assert inferred.shape == rollout[keys.TARGET_STATE].shape
    assert model != "oracle" or torch.equal(inferred, rollout[keys.TARGET_STATE])


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("place", "globediff"), ("offsets", "globediff"), ("place", "regressor"), ("offsets", "oracle")],
)
def test_a_run_that_infers_a_target_is_resumed_and_filmed(name, algorithm, fast_trainer, tmp_path):
    def make(folder, resume=None):
        options = ["training.frames_per_batch=40", "video=true"]
        return fast_trainer(algorithm, *options, iterations=4, folder=folder, env=f"vmas/{name}", resume=resume)

    whole = make("whole")
    assert whole.train()["complete"] and (tmp_path / "whole" / "episode.gif").is_file()
    train_until(make("parts"), 160)
    torch.manual_seed(12345)
    resumed = make("parts", resume=tmp_path / "parts")
    resumed.train()
    same(whole, resumed)
    picture = tmp_path / "step.png"
    episode = record_episode(make_env(f"vmas/{name}", num_envs=1), whole.team.policy, picture, step=1, progress=False)
    torch.testing.assert_close(episode.truth, expected(name, episode.state)[:, 0])
    if algorithm == "oracle":
        torch.testing.assert_close(episode.mean, episode.truth)
