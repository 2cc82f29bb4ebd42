"""SMAX's options: how far units see, jaxmarl's own arguments, where compiled battles are kept."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from smax_battles import B, need_jaxmarl

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs.smax import STOP, SmaxEnv
from globediff_torchrl.envs.smax.jax_setup import CACHE_SWITCH, load_battles
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.algorithms import env_from_config

need_jaxmarl()
pytestmark = pytest.mark.usefixtures("jaxmarl_in_silence")


def test_a_unit_farther_than_the_sight_range_is_not_seen():
    """On a map of 8 x 8, so that the sides meet at once; the distances are those of the state's positions."""
    sight, side = 3.0, 8
    env = make_env(
        "smax/3m", num_envs=B, seed=100, sight_range=sight, hide=None, aux=None, map_width=side, map_height=side
    )
    td = env.reset()
    layout, state = env.task.observation_layout, env.task.state_layout
    at = torch.stack([td["state"][:, state.select(f"{unit}.position")] for unit in state.entities], 1) * side
    count = {"ally": [0, 0], "enemy": [0, 0]}
    for agent in range(3):
        allies = [f"ally_{k}" for k in range(3) if k != agent]
        units = [*zip(allies, ("ally_1", "ally_2")), *((f"enemy_{k}",) * 2 for k in range(3))]
        for unit, slot in units:
            distance = (at[:, state.entities.index(unit)] - at[:, agent]).norm(dim=-1)
            assert ((distance - sight).abs() > 1e-4).all(), "no battle decides by its last bits"
            row = td[keys.OBSERVATION][:, agent][:, layout.select(f"{slot}.*")]
            near = distance < sight
            assert torch.equal((row != 0).any(-1), near), (agent, unit)
            offset = td[keys.OBSERVATION][:, agent][:, layout.select(f"{slot}.offset")] * sight
            expected = (at[:, state.entities.index(unit)] - at[:, agent]) * near[:, None]
            torch.testing.assert_close(offset, expected, atol=1e-5, rtol=0)
            for seen in (False, True):
                count[unit.split("_")[0]][seen] += int((near == seen).sum())
    assert all(number > 3 for pair in count.values() for number in pair), count
    unseen = td[keys.OBSERVATION][..., layout.select("enemy_*.health")] == 0
    assert (td[keys.ACTION_MASK][..., STOP + 1 :] & unseen).any(), "the range to shoot stays"


def test_jaxmarls_own_arguments_come_from_the_command_line():
    from globediff_torchrl.envs.smax.units import ScalarPush

    def units(*overrides):
        config = configuration.compose("smax", ["env.map=3m", "env.num_envs=2", *overrides])
        return env_from_config(config).base_env.battles.units

    ours, theirs = units(), units("+env.kwargs.fast_push=false", "+env.kwargs.walls_cause_death=false")
    assert isinstance(ours._env, ScalarPush) and not isinstance(theirs._env, ScalarPush)
    assert (ours.walls_cause_death, theirs.walls_cause_death) == (True, False)


def test_a_whole_number_does_for_a_fraction():
    def first_states(kind):
        env = make_env("smax/3m", num_envs=2, seed=0, won_battle_bonus=kind(3), time_per_step=kind(1))
        torch.manual_seed(0)  # of the random actions
        return env.rollout(3)["next", "state"]

    assert torch.equal(first_states(int), first_states(float))


def test_the_numbers_are_jaxs_whatever_torchs_default_is():
    torch.set_default_dtype(torch.float64)
    try:
        rollout = make_env("smax/3m", num_envs=2).base_env.rollout(2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rollout["state"].dtype == rollout["agents", "observation"].dtype == torch.float32


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_six_numbers_are_taken_in_any_form(kind):
    import jax.numpy as jnp

    numbers = [90.0, 125.0, 160.0, 150.0, 35.0, 80.0]
    given, theirs = (
        make_env("smax/3m", num_envs=2, unit_type_health=form(numbers)).base_env.battles for form in (kind, jnp.array)
    )
    assert given is theirs and given.units.unit_type_health.tolist() == numbers
    config = configuration.compose("smax", ["env.map=3m", "env.num_envs=2", f"+env.kwargs.unit_type_health={numbers}"])
    assert env_from_config(config).base_env.battles.units.unit_type_health.tolist() == numbers


def test_every_argument_stands_in_the_documentation():
    page = (Path(__file__).resolve().parent.parent / "docs" / "environments.md").read_text()
    table = page.split("\n## SMAX\n", 1)[1].split("\n## ", 1)[0]
    everywhere = {"self", "scenario", "num_envs", "seed", "device", "kwargs"}
    for name in set(inspect.signature(SmaxEnv.__init__).parameters) - everywhere:
        assert f"\n| `{name}` |" in table, name


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("JAX_ENABLE_X64", "1", "compute in 32 bits, .* unset JAX_ENABLE_X64"),
        ("JAX_PLATFORMS", "cuda", "cannot run on JAX_PLATFORMS=cuda .* unset JAX_PLATFORMS"),
        ("JAX_PLATFORMS", "rocket", "cannot run on JAX_PLATFORMS=rocket .*known backends"),
    ],
)
def test_a_setting_of_jax_that_no_battle_runs_on_is_named(name, value, says):
    code = (
        "from globediff_torchrl import UserError, make_env\n"
        "try:\n    make_env('smax/3m', num_envs=2)\n"
        "except UserError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", CACHE_SWITCH: "off", name: value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(says, done.stdout), done.stdout


@pytest.mark.parametrize(
    ("before", "settings", "platforms"),
    [("", {}, "cpu"), ("import jax", {}, None), ("", {"JAX_PLATFORMS": "cpu,cuda"}, "cpu,cuda")],
)
def test_jax_begins_no_gpu_unless_it_was_there_before_or_is_asked_for(before, settings, platforms):
    code = (
        f"{before}\nfrom globediff_torchrl.envs.smax import jax_setup\n"
        "try:\n    jax_setup.load_battles()\nexcept Exception:\n    pass\n"  # there is no CUDA for the last case
        "import jax\nprint('platforms', jax.config.jax_platforms)\n"
    )
    environment = {**{name: v for name, v in os.environ.items() if name != "JAX_PLATFORMS"}, **settings}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert f"platforms {platforms}\n" in done.stdout, done.stderr


# ------------------------------------------------------------------------------------------------- compiled and kept
@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """jax as a new process has it: no folder, though something is compiled already, as jaxmarl's import does."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (None, 0.0)):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    compile_something()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(CACHE_SWITCH, raising=False)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_something():
    import jax

    jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()


@pytest.mark.parametrize(("asked", "folder"), [("{here}/own", "own"), (None, "xdg/globediff_torchrl/jax")])
def test_what_is_compiled_is_kept_in_the_folder_asked_for(asked, folder, fresh_cache, monkeypatch, tmp_path):
    if asked is not None:
        monkeypatch.setenv(CACHE_SWITCH, asked.format(here=tmp_path))
    load_battles()
    assert Path(fresh_cache.jax_compilation_cache_dir).parent == tmp_path / folder
    compile_something()
    assert list((tmp_path / folder).glob("*/jit_*"))


def test_nothing_is_kept_where_it_is_switched_off(fresh_cache, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_SWITCH, "off")
    load_battles()
    compile_something()
    assert fresh_cache.jax_compilation_cache_dir is None and not list(tmp_path.iterdir())


def test_a_folder_that_jax_was_given_already_stays(fresh_cache, monkeypatch, tmp_path):
    fresh_cache.update("jax_compilation_cache_dir", str(tmp_path / "given"))
    monkeypatch.setenv(CACHE_SWITCH, str(tmp_path / "own"))
    load_battles()
    assert fresh_cache.jax_compilation_cache_dir == str(tmp_path / "given")


def test_nothing_is_kept_of_a_user_without_a_home(fresh_cache, monkeypatch, no_home):
    monkeypatch.delenv("XDG_CACHE_HOME")
    load_battles()
    assert fresh_cache.jax_compilation_cache_dir is None
