"""Every preset and the stock scenarios pass TorchRL's own check."""

from __future__ import annotations

import pytest
import torch
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs import available_envs, make_env
from globediff_torchrl.envs.vmas import PRESETS

# left out: sampling (a second a reset), road_traffic (a second a step), joint_passage and waterfall (1-2 seconds here),
# and the four whose agents have actions of different sizes, see test_envs_vmas.py
STOCK = [
    "asym_joint",
    "balance",
    "ball_trajectory",
    "buzz_wire",
    "circle_trajectory",
    "discovery",
    "dispersion",
    "drone",
    "dropout",
    "flocking",
    "football",
    "give_way",
    "goal",
    "het_mass",
    "joint_passage_size",
    "line_trajectory",
    "multi_give_way",
    "navigation",
    "passage",
    "reverse_transport",
    "simple",
    "simple_adversary",
    "simple_crypto",
    "simple_push",
    "simple_spread",
    "simple_tag",
    "transport",
    "vel_control",
    "wheel",
]
KEYS = {"observation", "last_action", "agent_id", "aux_observation", "active_mask", "episode_reward", "action"}


@pytest.mark.parametrize("num_envs", [1, 32])
@pytest.mark.parametrize("name", PRESETS)
def test_preset_passes_the_spec_check(name, num_envs):
    check_env_specs(make_env(f"vmas/{name}", num_envs=num_envs))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_passes_the_spec_check_with_discrete_actions(name):
    env = make_env(f"vmas/{name}", num_envs=2, continuous_actions=False)
    check_env_specs(env)
    last = env.rollout(3)["next", "agents", "last_action"]
    assert last.shape[-1] == 9 and (last.sum(dim=-1) == 1).all()


@pytest.mark.parametrize("name", STOCK)
def test_stock_scenario_passes_the_spec_check(name):
    check_env_specs(make_env(f"vmas/{name}", num_envs=2))


def test_at_least_25_stock_scenarios_are_checked_and_all_names_exist():
    assert len(STOCK) >= 25
    assert {f"vmas/{name}" for name in [*STOCK, *PRESETS]} <= set(available_envs())


@pytest.mark.parametrize("name", PRESETS)
def test_keys_shapes_and_dtypes_are_those_of_keys_py(name):
    env = make_env(f"vmas/{name}", num_envs=3)
    task, rollout = env.task, env.rollout(4)
    n, shape = task.n_agents, rollout.shape
    agents = rollout["agents"]
    assert set(agents.keys()) == KEYS
    assert agents["observation"].shape == (*shape, n, task.observation_layout.size)
    assert agents["aux_observation"].shape == (*shape, n, task.aux_dim)
    assert agents["agent_id"].shape == (*shape, n, n)
    assert agents["active_mask"].shape == (*shape, n, 1) and agents["active_mask"].all()
    assert rollout["state"].shape == (*shape, task.state_layout.size)
    assert rollout["time"].shape == (*shape, 1)
    assert rollout["success"].dtype == torch.bool
    assert rollout["next", "agents", "reward"].shape == (*shape, n, 1)
    floats = [agents[key] for key in KEYS - {"active_mask"}] + [rollout["state"], rollout["time"]]
    assert all(value.dtype == torch.float32 for value in floats)
    torch.testing.assert_close(agents["agent_id"], torch.eye(n).expand(*shape, n, n))
    torch.testing.assert_close(rollout["agents", "action"][:, :-1], agents["last_action"][:, 1:])
