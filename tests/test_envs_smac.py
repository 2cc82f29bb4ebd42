"""SMAC through the real smacv2 and pysc2 on a stand-in for the engine (tests/sc2_standin): no StarCraft results."""

from __future__ import annotations

import random
import time
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from sc2_standin import Knobs, install, read_log
from torchrl.envs.utils import check_env_specs

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs import describe_hidden
from globediff_torchrl.envs.smac import SmacEnv
from globediff_torchrl.envs.smac_maps import SMACV1_MAPS, smac_map
from globediff_torchrl.errors import UserError

smac_game = pytest.importorskip(
    "globediff_torchrl.envs.smac_game", reason="smacv2 or pysc2 is missing, see docs/smac.md"
)

MEDIVAC = 54
# agents, enemies, actions, observation, state, numbers that are hidden: of the public descriptions of SMAC
SIZES = {
    "3m": (3, 3, 9, 30, 48, 3),
    "MMM2": (10, 12, 18, 176, 322, 48),
    "3s5z_vs_3s6z": (8, 9, 15, 136, 230, 36),
    "6h_vs_8z": (6, 8, 14, 78, 140, 16),
    "zerg_5_vs_5": (5, 5, 11, 82, 120, 20),
    "zerg_10_vs_10": (10, 10, 16, 162, 290, 40),
    "zerg_10_vs_11": (10, 11, 17, 170, 306, 44),
    "protoss_5_vs_5": (5, 5, 11, 92, 130, 25),
    "protoss_10_vs_10": (10, 10, 16, 182, 310, 50),
    "protoss_10_vs_11": (10, 11, 17, 191, 327, 55),
    "terran_5_vs_5": (5, 5, 11, 82, 120, 20),
    "terran_10_vs_10": (10, 10, 16, 162, 290, 40),
    "terran_10_vs_11": (10, 11, 17, 170, 306, 44),
}


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    return install(tmp_path_factory.mktemp("sc2"))


@pytest.fixture(autouse=True)
def engine(installation, monkeypatch, tmp_path):
    """``engine(damage=0.5, ...)`` sets the stand-in's knobs; no engine may be left running."""

    def knobs(**values):
        for name, value in Knobs(log=tmp_path / "log", **values).environ().items():
            monkeypatch.setenv(name, value)

    monkeypatch.setenv("SC2PATH", str(installation))
    knobs()
    knobs.log = tmp_path / "log"
    yield knobs
    left = [pid for pid in read_log(knobs.log).running if Path(f"/proc/{pid}").exists()]
    assert not left, "engines that nobody has ended"


@pytest.fixture
def battle():
    """Makes environments that are closed at the end."""
    made = []

    def make(name, **kwargs):
        make_one = SmacEnv if "/" not in name else make_env
        made.append(make_one(name, **{"seed": 100, **({} if "/" not in name else {"num_envs": 1}), **kwargs}))
        return made[-1]

    yield make
    for env in made:
        env.close()


def family(name):
    return f"smac/{name}" if name in SMACV1_MAPS else f"smacv2/{name}"


def focused(game):
    """Everybody shoots the same enemy, the medivac first, or goes towards it."""
    living = [e for e in game.enemies if game.enemies[e].health > 0]
    medics = [e for e in living if game.enemies[e].unit_type == MEDIVAC]
    target, actions = (medics or living)[0], []
    for agent, mask in enumerate(game.get_avail_actions()):
        unit, enemy = game.agents[agent], game.enemies[target]
        x, y = enemy.pos.x - unit.pos.x, enemy.pos.y - unit.pos.y
        if unit.unit_type != game.medivac_id and mask[game.n_actions_no_attack + target]:
            wanted = game.n_actions_no_attack + target
        elif abs(x) > abs(y):
            wanted = 4 if x > 0 else 5
        else:
            wanted = 2 if y > 0 else 3
        actions.append(0 if mask[0] else wanted if mask[wanted] else 1)
    return torch.tensor(actions)


def standing(game):
    return torch.tensor([0 if mask[0] else 1 for mask in game.get_avail_actions()])


def episode(env, policy, limit=400):
    """All steps of an episode of an unbatched environment, stacked ``[T]``."""
    steps, td = [], env.reset()
    while not steps or not steps[-1]["next", "done"].item():
        assert len(steps) < limit
        td.set(keys.ACTION, policy(env._env))
        steps.append(env.step(td).clone())
        td = steps[-1]["next"].exclude(keys.REWARD)
    return torch.stack(steps)


@pytest.mark.parametrize("name", SIZES)
def test_a_map_is_played_and_only_what_is_hidden_differs(name, battle):
    """Specs hold, sizes are the public ones, and with the same seed all but the hidden numbers is bit-identical."""
    agents, enemies, actions, observed, size, hidden = SIZES[name]
    masked, plain = (battle(family(name), sight_range=60, **kwargs) for kwargs in ({}, {"hide": None}))
    check_env_specs(masked, seed=100)
    one, two = played(masked, 8), played(plain, 8)

    layout = masked.task.observation_layout
    assert one[keys.OBSERVATION].shape == (1, 8, agents, observed) and one["state"].shape == (1, 8, size)
    assert one[keys.ACTION_MASK].shape == (1, 8, agents, actions)
    assert one["next", "agents", "reward"].shape == (1, 8, agents, 1)
    assert sum(entity.startswith("enemy") for entity in masked.task.state_layout.entities) == enemies
    secret = layout.select([name.removeprefix("agents.") for name in masked.task.hidden])
    assert len(secret) == hidden and not plain.task.hidden
    kept = torch.ones(observed, dtype=torch.bool)
    kept[secret] = False
    for ours, theirs in ((one, two), (one["next"], two["next"])):
        assert (ours[keys.OBSERVATION][..., secret] == 0).all()
        assert torch.equal(ours[keys.OBSERVATION][..., kept], theirs[keys.OBSERVATION][..., kept])
        for key in ("state", keys.ACTION_MASK, keys.ACTIVE_MASK, "done", "success"):
            assert torch.equal(ours[key], theirs[key]), key
    assert torch.equal(one["next", "agents", "reward"], two["next", "agents", "reward"])
    assert (two[keys.OBSERVATION][:, 0][..., layout.select("enemy_*.health")] > 0).all(), "everything is in sight"
    assert not one["next", "crashed"].any() and not two["next", "crashed"].any()


def played(env, steps, seed=100):
    env.set_seed(seed)
    torch.manual_seed(1)
    return env.rollout(steps, break_when_any_done=False)


def test_all_of_smacv2s_maps_are_listed():
    from smacv2.env.starcraft2.maps.smac_maps import get_smac_map_registry

    theirs = get_smac_map_registry()
    ours = {smac_map(n).map_name: smac_map(n) for n in [*SMACV1_MAPS, "zerg_10_vs_10", "protoss_10_vs_10"]}
    ours["10gen_terran"] = smac_map("terran_10_vs_10")
    assert set(ours) == set(theirs)
    for name, game in ours.items():
        assert (game.agents, game.enemies) == (theirs[name]["n_agents"], theirs[name]["n_enemies"])
        assert (game.limit, game.file) == (theirs[name]["limit"], theirs[name]["map_name"])


def test_layouts_have_the_sizes_of_all_maps_and_options():
    """smacv2's names against its sizes; nothing is launched."""
    several = {"obs_last_action": True, "obs_pathing_grid": True, "obs_terrain_height": True, "conic_fov": True}
    clocks = {"obs_timestep_number": True, "state_timestep_number": True}
    chances = {"dist_type": "per_agent_uniform", "lower_bound": [0.5], "upper_bound": [0.9], "observe": True}
    for name in SMACV1_MAPS:
        SmacEnv(name)
    for name in ("zerg_3_vs_4", "terran_7_vs_4", "protoss_20_vs_23"):
        env = SmacEnv(name, **several, **clocks, capability_config={"attack": chances, "health": chances})
        assert env.observation_layout.size == env.observation_spec[keys.OBSERVATION].shape[-1] == env.get_obs_size()
    assert SmacEnv("zerg_5_vs_5", configuration="paper").observation_layout.size == 80


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


@pytest.mark.parametrize("name", ["MMM2", "zerg_5_vs_5"])
def test_a_seed_is_a_battle(name, battle):
    """Also in an environment that has played already; and it leaves the streams of everybody else alone."""
    env = battle(name)
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, other, again = (played(env, 12, seed) for seed in (101, 102, 101))
    fresh = played(battle(name), 12, 101)
    for steps in (again, fresh):
        assert all(torch.equal(first[key], steps[key]) for key in first.keys(True, True) if "reward" not in key)
    assert not torch.equal(first["next", "state"], other["next", "state"])
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


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


def test_upstreams_reward_shrinks_with_the_resets(battle, engine):
    engine(damage=0.0)
    env = battle("3m", behaviour="upstream")
    env.reset()
    won = episode(env, focused)["next"]
    assert won["success"][-1] and won[keys.REWARD][:, 0].sum().item() == pytest.approx(20 * 365 / 500, abs=1e-3)


def test_an_unseen_enemy_blanks_its_own_row_only(battle):
    """smacv2's issue 50, on a grid of places: the mended rows are those of the enemies in sight, smacv2's are fewer."""
    lost = 0
    for fix in (True, False):
        env = battle("zerg_5_vs_5", fix_enemy_visibility=fix)
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
            if fix:
                assert shown[near].all()
            lost += int((near & ~shown).sum())
    assert lost > 0, "without the fix some are lost"


def positions(env, state, side):
    """``[T, units, 2]`` in map units."""
    columns = env.state_layout.select(f"{side}_*.position")
    return state[:, columns].reshape(len(state), -1, 2) * 32


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


def test_maps_that_wait_before_the_next_battle_do_too(battle, engine):
    engine(respawn_delay=9)
    env = battle("3m")
    for _ in range(3):
        td = env.reset()
        assert (td["state"][env.state_layout.select("*.health")] == 1).all()


def test_an_engine_that_dies_is_an_error_and_not_the_end_of_a_battle(battle, engine):
    engine(crash_at=6, faulty_starts=1)
    env = battle("3m")
    td = env.reset()
    with pytest.raises(smac_game.EngineError, match="StarCraft II is lost"):
        for _ in range(10):
            td = env.step(td.set(keys.ACTION, standing(env._env)))["next"].exclude(keys.REWARD)
    td = env.reset()  # in a new engine
    assert (td["state"][env.state_layout.select("*.health")] == 1).all()


def test_kill_ends_an_engine_that_does_not_answer(battle, engine):
    engine(freeze_at=6)
    env = battle("3m")
    td = env.reset()
    Timer(3.0, env.kill).start()
    started = time.monotonic()
    with pytest.raises(smac_game.EngineError):
        for _ in range(10):
            td = env.step(td.set(keys.ACTION, standing(env._env)))["next"].exclude(keys.REWARD)
    assert time.monotonic() - started < 30
    env.close()
    env.close()


def test_an_engine_that_does_not_answer_is_given_up(battle, engine):
    engine(freeze_at=6)
    env = battle("3m", engine_timeout=6)
    td = env.reset()
    with pytest.raises(smac_game.EngineError):
        for _ in range(10):
            td = env.step(td.set(keys.ACTION, standing(env._env)))["next"].exclude(keys.REWARD)


def test_a_full_restart_shows_the_new_game(engine):
    game = smac_game.Game(map_name="3m", seed=100)
    game.reset()
    game.full_restart()
    _, state = game.reset()
    assert len(read_log(engine.log).started) == 2 and (state[[0, 4, 8]] == 1).all()
    game.close()


def test_several_battles_at_once(battle):
    env = battle("smacv2/zerg_3_vs_2", num_envs=2)
    torch.manual_seed(0)
    steps = env.rollout(6, break_when_any_done=False)
    assert steps[keys.OBSERVATION].shape == (2, 6, 3, env.task.observation_layout.size)
    chosen = steps[keys.ACTION_MASK].gather(-1, steps[keys.ACTION].unsqueeze(-1))
    assert chosen.all(), "random actions are legal ones"
    assert not torch.equal(steps["state"][0], steps["state"][1]), "each has a seed of its own"
    assert "behaviour mended" in env.task.description and "not fixed by the seed" in env.task.description
    assert "agents.enemy_*.health" in describe_hidden(env.task)


def test_an_illegal_action_is_the_callers_mistake(battle):
    env = battle("3m")
    with pytest.raises(UserError, match=r"agent 1 cannot take action 0, expected one of \[1"):
        env.step(env.reset().set(keys.ACTION, torch.tensor([1, 0, 1])))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"behaviour": "fixed"}, "Unknown behaviour"),
        ({"configuration": "ours"}, "Unknown configuration"),
        ({"time_limit": "done"}, "Unknown time_limit"),
        ({"sight_range": -1}, "above 0 in map units"),
        ({"dificulty": "7"}, "Unknown argument of smacv2's StarCraft2Env 'dificulty': did you mean 'difficulty'"),
        ({"continuing_episode": True}, "use time_limit=truncated"),
        ({"hide": ["enemy.health"]}, "did you mean"),
    ],
)
def test_mistakes_are_named(arguments, match):
    with pytest.raises(UserError, match=match):
        make_env("smac/3m", num_envs=1, **arguments)
