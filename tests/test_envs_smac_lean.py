"""SMAC: what smac/lean.py spares changes no number, on a stand-in for the engine (tests/sc2_standin): not StarCraft."""

from __future__ import annotations

from functools import partial
from types import MethodType

import pytest
from benchmark_scripts import load
from smac_battles import episode, family, focused, played
from torchrl.envs import SerialEnv

from globediff_torchrl.envs.processes.children import kill_processes
from globediff_torchrl.envs.processes.deadline import DeadlineThread

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")

from smacv2.env.starcraft2.starcraft2 import StarCraft2Env

SPARED = ("get_avail_agent_actions", "get_true_avail_agent_actions", "update_units")
GAMES = [("3m", {}), ("3m", {"action_mask": False}), ("MMM2", {}), ("zerg_5_vs_5", {}), ("terran_5_vs_5", {})]


@pytest.mark.parametrize("damage", [0.5, 4.0])
@pytest.mark.parametrize(("name", "options"), GAMES)
def test_battles_go_as_with_smacv2s_own_functions(name, options, damage, battle, engine):
    """Won and lost ones: every entry of every step of three episodes, the dead and the returns included."""
    engine(damage=damage)
    lean, plain = battle(name, **options), battle(name, **options)
    for function in SPARED:
        setattr(plain._env, function, MethodType(getattr(StarCraft2Env, function), plain._env))
    deaths = 0
    for _ in range(3):
        one, two = episode(lean, focused), episode(plain, focused)
        assert set(one.keys(True, True)) == set(two.keys(True, True)) and (one == two).all()
        deaths += (~one["next", "agents", "active_mask"]).sum()
    assert deaths > 0 or damage == 0.5


def test_turning_changes_what_an_agent_may_shoot_at_once(battle):
    """With ``conic_fov`` legal actions depend on where an agent looks, which an action changes."""
    lean, plain = (battle("3m", conic_fov=True, num_fov_actions=12, sight_range=60) for _ in range(2))
    for function in SPARED:
        setattr(plain._env, function, MethodType(getattr(StarCraft2Env, function), plain._env))
    for env in (lean, plain):
        env._env.render_fovs = lambda: None  # drawn for who watches
    one, two = played(lean, 40), played(plain, 40)
    assert (one == two).all()


@pytest.mark.parametrize("name", ["3m", "3s5z"])
def test_the_step_benchmarks_other_environment_plays_on_after_a_battle(name, engine, monkeypatch):
    """smacv2's own would wait for ever, or raise at the unit types of 3s5z."""
    engine(damage=8.0)
    thread = DeadlineThread()
    try:
        env = thread.call(partial(load(monkeypatch, "smac_step").plain_battle, name), 60)
        steps = thread.call(lambda: env.rollout(80, break_when_any_done=False), 240)
        assert steps["next", "done"].sum() >= 2
    finally:
        kill_processes(thread.children())


@pytest.mark.parametrize("name", ["3m", "zerg_5_vs_5"])
def test_make_env_gives_what_it_gives_on_torchrls_serial_env(name, battle, engine):
    """Every entry, through the ends of episodes and the resets in between."""
    engine(damage=4.0)
    ours, plain = (battle(family(name), max_steps=12) for _ in range(2))
    object.__setattr__(plain.base_env, "_step", MethodType(SerialEnv._step, plain.base_env))
    one, two = played(ours, 40), played(plain, 40)
    measured = ("engine_memory", ("next", "engine_memory"))  # of two processes
    assert one["next", "done"].sum() >= 3
    assert (one.exclude(*measured) == two.exclude(*measured)).all()
