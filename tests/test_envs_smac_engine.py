"""SMAC: engines that die, hang and start anew, on a stand-in for the engine (tests/sc2_standin): not StarCraft."""

from __future__ import annotations

import time
from threading import Timer

import pytest
from sc2_standin import read_log
from smac_battles import standing

from globediff_torchrl import keys

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")

from globediff_torchrl.envs.smac import game as smac_game


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
