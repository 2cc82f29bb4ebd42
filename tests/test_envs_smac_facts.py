"""SMAC: seeds, types, sight and ranges, on a stand-in for the engine (tests/sc2_standin): not StarCraft."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from smac_battles import episode, focused, played, positions

from globediff_torchrl import keys

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")


@pytest.mark.parametrize("name", ["MMM2", "zerg_5_vs_5"])
def test_a_seed_is_a_battle(name, battle):
    """Also in an environment that has played already; and it leaves the streams of everybody else alone."""
    env = battle(name)
    before = random.getstate(), np.random.get_state()[1].copy()
    first, other, again = (played(env, 12, seed) for seed in (101, 102, 101))
    fresh = played(battle(name), 12, 101)
    for steps in (again, fresh):
        assert all(torch.equal(first[key], steps[key]) for key in first.keys(True, True) if "reward" not in key)
    assert not torch.equal(first["next", "state"], other["next", "state"])
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()


def test_chances_to_hit_are_drawn_from_the_seed(battle):
    """Capabilities that numpy 2.4 refuses in smacv2, and whose draws smacv2 does not seed."""
    chances = {"dist_type": "per_agent_uniform", "lower_bound": [0.2], "upper_bound": [0.9], "observe": True}
    given = {"attack": chances}
    returns = []
    for _ in range(2):
        env = battle("zerg_5_vs_5", capability_config=given)
        steps = episode(env, focused)
        returns.append(steps["next", "state"])
    assert torch.equal(*returns)
    assert given == {"attack": chances} and set(chances) == {"dist_type", "lower_bound", "upper_bound", "observe"}


def test_allies_have_their_own_types(battle):
    """smacv2 gives all allies of MMM2 the same type, in observation and state."""

    def types(env):
        td = env.reset()
        rows = [td["state"][env.state_layout.slices[f"ally_{k}.type"]].argmax().item() for k in range(10)]
        own = td[keys.OBSERVATION][:, env.observation_layout.slices["own.type"]].argmax(-1)
        assert own.tolist() == rows
        return rows

    assert sorted(types(battle("MMM2"))) == [0] * 2 + [1] * 7 + [2]  # marauders, marines, the medivac
    assert set(types(battle("MMM2", behaviour="upstream"))) == {2}


MENDED_ROWS = [{}, {"behaviour": "upstream", "fix_enemy_visibility": True}]
BLANKED_ROWS = [{"behaviour": "upstream"}, {"fix_enemy_visibility": False}]


def test_an_unseen_enemy_blanks_its_own_row_only(battle):
    """smacv2's issue 50, on a grid of places: the mended rows are those of the enemies in sight, smacv2's are fewer."""
    for options in (*MENDED_ROWS, *BLANKED_ROWS):
        lost, env = 0, battle("zerg_5_vs_5", **options)
        assert ("enemy rows as in SMACv1" if options in MENDED_ROWS else "enemy rows blanked") in ", ".join(env.says)
        env.set_seed(103)
        torch.manual_seed(0)
        for _ in range(3):
            steps = env.rollout(10)
            shown = steps[keys.OBSERVATION][..., env.observation_layout.select("enemy_*.distance")] > 0
            game = env._env
            sight = torch.tensor([game.unit_sight_range(agent) for agent in range(5)])
            ours, theirs = (positions(env, steps["state"], side) for side in ("ally", "enemy"))
            alive = (steps["state"][:, env.state_layout.select("ally_*.health")] > 0)[:, :, None] & (
                steps["state"][:, env.state_layout.select("enemy_*.health")] > 0
            )[:, None]
            near = (torch.cdist(ours, theirs) < sight[:, None] - 1e-3) & alive
            lost += int((near & ~shown).sum())
        assert (lost == 0) == (options in MENDED_ROWS), f"{options} loses {lost} of the enemies in sight"


def test_sight_is_what_was_asked_for(battle):
    """At 3, nobody is shown who is farther away; at 100, everybody, each at their distance over 100."""
    far = battle("smac/3m", sight_range=100, hide=None)
    td = far.reset()
    layout = far.task.observation_layout
    columns = torch.stack([layout.select(f"enemy_{k}.offset") for k in range(3)])
    offsets = td[keys.OBSERVATION][0][:, columns] * 100
    world = [positions(far.base_env, td["state"], side)[0] for side in ("ally", "enemy")]
    torch.testing.assert_close(offsets, world[1][None] - world[0][:, None], atol=1e-3, rtol=0)
    near = battle("smac/3m", sight_range=3, hide=None)
    assert (near.reset()[keys.OBSERVATION][..., columns] == 0).all()
    assert "sight 3" in near.task.description


def test_ranges_by_unit_type_work_on_marines_too(battle):
    env = battle("3m", use_unit_ranges=True)
    env.reset()
    assert {env._env.unit_sight_range(agent) for agent in range(3)} == {9}
    assert {env._env.unit_shoot_range(agent) for agent in range(3)} == {5}
