"""Environments of another kind in the project's keys."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from torchrl.envs import PettingZooWrapper, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs import Feature, FeatureLayout, describe_hidden, wrap_env
from globediff_torchrl.errors import UserError


class Corridor(ParallelEnv):
    """Three walkers on a line see their own place and a coin each; the state is all places and the goal."""

    metadata = {"name": "corridor", "render_modes": []}

    def __init__(self):
        self.possible_agents = [f"walker_{i}" for i in range(3)]
        self.agents = list(self.possible_agents)
        self.render_mode = None
        self.state_space = Box(-np.inf, np.inf, (4,), np.float32)

    @functools.cache  # noqa: B019  (as PettingZoo documents it: the spaces must be the same objects)
    def observation_space(self, agent):
        return Box(-np.inf, np.inf, (2,), np.float32)

    @functools.cache  # noqa: B019  (as PettingZoo documents it: the spaces must be the same objects)
    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.places, self.goal, self.clock = np.arange(3, dtype=np.float32), 5.0, 0
        return self._observe(), {agent: {} for agent in self.agents}

    def state(self):
        return np.append(self.places, self.goal).astype(np.float32)

    def step(self, actions):
        self.places = self.places + np.array([actions[agent] - 1 for agent in self.agents], dtype=np.float32)
        self.clock += 1
        over = dict.fromkeys(self.agents, self.clock == 4)
        rewards = {agent: -abs(self.goal - place) for agent, place in zip(self.agents, self.places)}
        observation = self._observe()
        infos = {agent: {} for agent in self.agents}
        if self.clock == 4:
            self.agents = []
        return observation, rewards, over, dict.fromkeys(over, False), infos

    def _observe(self):
        return {f"walker_{i}": np.array([place, i], dtype=np.float32) for i, place in enumerate(self.places)}


def corridor(group: str, **kwargs):
    env = PettingZooWrapper(
        Corridor(),
        return_state=True,
        group_map={group: [f"walker_{i}" for i in range(3)]},
        use_mask=False,
        done_on_any=True,
    )
    return wrap_env(env, group=group, **kwargs)


@pytest.mark.parametrize("group", ["agents", "walkers"])
def test_a_pettingzoo_env_gets_the_same_keys_and_passes_the_spec_check(group):
    env = corridor(group, aux="joint_history", history=2, max_steps=3)
    check_env_specs(env)
    rollout = env.rollout(6, break_when_any_done=False)
    assert rollout["agents", "observation"].shape == (6, 3, 2)
    # three walkers x three frames x (two numbers + three one-hot actions) + the id
    assert rollout["agents", "aux_observation"].shape == (6, 3, 3 * 3 * 5 + 3)
    assert rollout["state"].shape == (6, 4)
    assert rollout["agents", "last_action"].shape == (6, 3, 3)
    assert rollout["next", "agents", "reward"].shape == (6, 3, 1)
    assert rollout["next", "agents", "episode_reward"].shape == (6, 3, 1)
    assert rollout["agents", "active_mask"].all()
    assert rollout["next", "truncated"][:, 0].tolist() == [False, False, True] * 2
    assert not rollout["next", "terminated"].any()
    torch.testing.assert_close(rollout["state"][:, :3], rollout["agents", "observation"][..., 0])
    assert env.task.n_agents == 3 and env.task.aux_dim == 48 and not env.task.continuous
    assert env.task.name == "PettingZooWrapper"


def test_a_task_is_named_after_the_environment_under_transforms_unless_a_name_is_given():
    inner = TransformedEnv(corridor("agents").base_env, StepCounter())
    assert wrap_env(inner).task.name == "PettingZooWrapper"
    assert corridor("walkers", name="corridor").task.name == "corridor"


def test_without_a_layout_features_are_numbered_and_can_be_hidden_by_number():
    env = corridor("agents", hide=["agent.f1"])
    assert env.task.observation_layout.names == ("agent.f0", "agent.f1")
    assert env.task.hidden == ("agents.agent.f1",)
    assert "agents.agent.f1" in describe_hidden(env.task)
    rollout = env.rollout(3)
    assert (rollout["agents", "observation"][..., 1] == 0).all()
    assert rollout["agents", "observation"][..., 0].any()


def test_a_layout_names_the_numbers_and_must_have_their_number():
    layout = FeatureLayout((Feature("walker", "place", "other"), Feature("walker", "coin", "flag")))
    env = corridor("agents", observation_layout=layout, hide=["walker.coin"])
    assert env.task.hidden == ("agents.walker.coin",)
    with pytest.raises(UserError, match=r"describes 2 numbers, but the environment's state has 4"):
        corridor("agents", state_layout=layout)


def test_a_missing_group_or_state_is_named():
    env = PettingZooWrapper(Corridor(), return_state=False, use_mask=False, done_on_any=True)
    with pytest.raises(UserError, match=r"Known: walker\. Pass group='walker'\."):
        wrap_env(env, group="team")
    with pytest.raises(UserError, match="'state'"):
        wrap_env(env, group="walker")
