"""SMAC: how battles end and what they return, on a stand-in for the engine (tests/sc2_standin): not StarCraft."""

from __future__ import annotations

import pytest
import torch
from sc2_standin import read_log
from smac_battles import SIZES, episode, focused, standing

from globediff_torchrl import keys
from globediff_torchrl.envs.smac.maps import SMACV1_MAPS
from globediff_torchrl.errors import UserError

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")


@pytest.mark.parametrize("name", SIZES)
def test_a_won_battle_returns_20_after_any_number_of_resets(name, battle, engine):
    engine(damage=0.0)
    env = battle(name)
    for resets in (3, 0, 1):  # smacv2 is wrong only before an episode has ended
        for _ in range(resets):
            env.reset()
        steps = episode(env, focused)["next"]
        assert steps["success"][-1] and steps["terminated"][-1] and not steps["truncated"].any()
        assert not steps["success"][:-1].any()
        # units that recover between two hits are worth a little more
        assert steps[keys.REWARD][:, 0].sum().item() == pytest.approx(20, abs=0.1)
        assert (steps[keys.REWARD] == steps[keys.REWARD][:, :1]).all(), "the team's, for each agent"
    assert len(read_log(engine.log).started) == 1, "one launch serves all resets"


@pytest.mark.parametrize("name", SIZES)
def test_battles_are_lost_too(name, battle, engine):
    engine(damage=4.0)
    env = battle(name)
    steps = episode(env, focused)["next"]
    assert steps["terminated"][-1] and not steps["success"].any() and not steps["truncated"].any()
    alive = steps[keys.ACTIVE_MASK][..., 0]
    if not name.startswith(("MMM", "terran")):  # a side of medivacs alone has lost
        assert not alive[-1].any()
    layout = env.state_layout
    for agent in range(3):
        assert torch.equal(alive[:, agent], steps["state"][:, layout.slices[f"ally_{agent}.health"]][:, 0] > 0)
    only_nothing = torch.arange(steps[keys.ACTION_MASK].shape[-1]) == 0
    assert (steps[keys.ACTION_MASK][~alive] == only_nothing).all()
    assert not steps[keys.ACTION_MASK][alive][:, 0].any()


@pytest.mark.parametrize(("time_limit", "ended"), [("truncated", False), ("terminated", True)])
def test_the_limit_is_what_was_asked_for(time_limit, ended, battle, engine):
    engine(damage=0.0)
    steps = episode(battle("3m", max_steps=7, time_limit=time_limit), standing)["next"]
    assert len(steps) == 7
    assert steps["done"][:, 0].tolist() == [False] * 6 + [True]
    assert steps["terminated"][-1].item() is ended and steps["truncated"][-1].item() is not ended
    assert not steps["success"].any()


def test_a_battle_has_its_maps_limit(battle):
    assert battle("smac/3m").task.max_steps == SMACV1_MAPS["3m"][2] == 60
    assert battle("smac/3m", max_steps=5).task.max_steps == 5


def test_upstreams_reward_shrinks_with_the_resets(battle, engine):
    engine(damage=0.0)
    env = battle("3m", behaviour="upstream")
    env.reset()
    won = episode(env, focused)["next"]
    assert won["success"][-1] and won[keys.REWARD][:, 0].sum().item() == pytest.approx(20 * 365 / 500, abs=1e-3)


def test_an_illegal_action_is_the_callers_mistake(battle):
    env = battle("3m")
    with pytest.raises(UserError, match=r"agent 1 cannot take action 0, expected one of \[1"):
        env.step(env.reset().set(keys.ACTION, torch.tensor([1, 0, 1])))
    for none in (-1, 9):
        with pytest.raises(UserError, match=rf"expects numbers from 0 to 8, got {none}"):
            env.step(env.reset().set(keys.ACTION, torch.tensor([1, none, 1])))
