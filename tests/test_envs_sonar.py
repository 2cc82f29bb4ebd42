"""Sonar: rewards by hand, what two ranges tell and what they do not, returns of simple players."""

from __future__ import annotations

import math

import torch
from simple_players import play, put, still

from globediff_torchrl.envs import make_env


def test_sonar_rewards_by_hand():
    env = make_env("vmas/sonar", num_envs=1)
    td = env.reset()
    put(env, [[-0.5, 0.0], [0.5, 0.0], [0.4, 0.0]], target=[0.3, -0.6])  # far, on the other side
    reward = still(env, td)["agents", "reward"]
    torch.testing.assert_close(reward, torch.full((1, 3, 1), 0.1 * (1 - math.exp(-((0.8 / 0.25) ** 2)))))
    put(env, [[-0.5, 0.0], [0.5, 0.0], [-0.15, 0.0]], target=[-1.0, 0.2])
    reward = still(env, td)["agents", "reward"]
    torch.testing.assert_close(reward, torch.full((1, 3, 1), 0.1 * (math.exp(-1) - math.exp(-((0.55 / 0.25) ** 2)))))


def test_two_ranges_on_the_rail_fix_the_source_but_for_its_side():
    env = make_env("vmas/sonar", num_envs=4_000, hide=None, seed=0)
    td = env.rollout(3)[:, -1]["next"]
    slices = env.task.observation_layout.slices
    seen = td["agents", "observation"]
    place, ranges = seen[..., slices["agent.position"]], seen[..., slices["source.heard"]].squeeze(-1)
    source = seen[:, 0, slices["source.offset"]] + place[:, 0]
    assert not place[..., 1].any() and not ranges[:, 2].any()  # all on the rail, the runner deaf
    a, b = place[:, 0, 0], place[:, 1, 0]
    x = (ranges[:, 0] ** 2 - ranges[:, 1] ** 2 - a**2 + b**2) / (2 * (b - a))
    height = (ranges[:, 0] ** 2 - (x - a) ** 2).clamp(min=0).sqrt()
    torch.testing.assert_close(x, source[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(height, source[:, 1].abs(), atol=1e-3, rtol=0)
    side = source[:, 1].sign()
    told = torch.cat([place[..., 0], ranges[:, :2]], dim=1)
    correlations = ((told - told.mean(0)) / told.std(0) * side.unsqueeze(1)).mean(0)
    assert correlations.abs().max() < 0.07 and side.mean().abs() < 0.07  # 4,000 coins
    near, far = source[:, 1].abs() < 0.26, source[:, 1].abs() > 0.49
    assert (near ^ far).all() and (near.float().mean() - 0.5).abs() < 0.04
    assert 1.05 < source[:, 0].abs().max() < 1.11


def test_sonar_pays_an_oracle_and_nobody_who_guesses():
    env = make_env("vmas/sonar", num_envs=2_048, seed=0)
    berth = env.base_env._env.scenario.berth

    def runner(x):
        return torch.stack([torch.zeros_like(x), torch.zeros_like(x), x], dim=1).unsqueeze(-1) * torch.tensor(
            [1.0, 0.0]
        )

    oracle, guesser = (
        play(env, lambda env, td, f=f: runner(f(berth())), 50) for f in (lambda g: g, lambda g: 0.4 + 0 * g)
    )
    assert 3.3 < oracle < 4.2
    assert abs(guesser) < 0.15


def test_listeners_stand_still():
    rollout = make_env("vmas/sonar", num_envs=8).rollout(20)
    slices = make_env("vmas/sonar", num_envs=1).task.observation_layout.slices
    places = rollout["agents", "observation"][..., slices["agent.position"]]
    assert (places[:, :, :2] == places[:, :1, :2]).all() and not (places[:, -1, 2] == places[:, 0, 2]).any(0)[0]
