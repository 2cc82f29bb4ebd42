"""The families of environments: how each makes its own, and what it takes where the caller says nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import vmas
from torchrl.envs import EnvBase
from vmas.simulator.scenario import BaseScenario

from globediff_torchrl.envs.processes.guard import GuardedEnv
from globediff_torchrl.envs.processes.parallel import parallel_env
from globediff_torchrl.envs.smac import SmacEnv
from globediff_torchrl.envs.smac import maps as smac_maps
from globediff_torchrl.envs.smac.layouts import hidden_by_default
from globediff_torchrl.envs.smax import SmaxEnv
from globediff_torchrl.envs.smax import layouts as smax_layouts
from globediff_torchrl.envs.vmas import PRESETS, SHIPPED, Preset, StateVmasEnv
from globediff_torchrl.envs.vmas.fingerprint import fingerprint
from globediff_torchrl.errors import UserError, kind_of, unknown

STOCK_MAX_STEPS = 100
RESTART_EVERY = 500  # episodes after which a StarCraft II is replaced, as it leaks memory


def default_num_envs(family: str) -> int:
    """How many environments are simulated at once where nobody says: in SMAC each takes a StarCraft II of its own."""
    return 1 if family in ("smac", "smacv2") else 32


def available_envs() -> list[str]:
    """The names that :func:`make_env` takes: our presets, VMAS's own scenarios, SMAX's, SMAC's, SMACv2's.

    Of SMACv2 the published ones; ``"smacv2/<race>_<n>_vs_<m>"`` is taken for any n and m.
    """
    stock = vmas.scenarios + vmas.mpe_scenarios + vmas.debug_scenarios
    names = [f"vmas/{name}" for name in [*PRESETS, *sorted(stock)]]
    names += [f"smax/{name}" for name in smax_layouts.SCENARIOS]
    names += [f"smac/{name}" for name in smac_maps.SMACV1_MAPS]
    return names + [f"smacv2/{name}" for name in smac_maps.SMACV2_MAPS]


def check_name(name: str) -> None:
    """Refuses a name that :func:`make_env` does not take.

    Raises:
        UserError: the message lists the known ones.
    """
    if not isinstance(name, str):
        raise UserError(
            f"an environment is expected by its name '<family>/<scenario>', e.g. 'vmas/hunt', got {kind_of(name)}: "
            "docs/extending.md gives a scenario of your own a name; wrap_env takes an environment that is there."
        )
    family, _, short = name.partition("/")
    if name not in available_envs() and not (family == "smacv2" and smac_maps.is_generated(short)):
        error = unknown("environment", name, available_envs())
        raise UserError(f"{error} One of your own is known once its module is imported, see imports.")


@dataclass(frozen=True)
class Base:
    """An environment of one family, and what :func:`make_env` takes where the caller says nothing."""

    env: EnvBase
    aux: str
    hide: tuple[str, ...]
    max_steps: int | None
    description: str
    ends_early: bool = False
    code: str | None = None


def _vmas_base(
    short: str,
    max_steps: int | str | None,
    *,
    num_envs: int,
    seed: int | None,
    device: torch.device | str,
    continuous_actions: bool = True,
    **scenario_kwargs,
) -> Base:
    preset = PRESETS.get(short) or Preset(short, "history", STOCK_MAX_STEPS, f"VMAS scenario {short}")
    stock = isinstance(preset.scenario, str)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Scenario kwargs")  # VMAS warns of those it does not know
            env = StateVmasEnv(
                preset.scenario if stock else preset.scenario(),
                scenario_name=preset.scenario if stock else short,
                num_envs=num_envs,
                device=device,
                continuous_actions=continuous_actions,
                seed=seed,
                **{**preset.kwargs, **scenario_kwargs},
            )
    except UserWarning as warning:
        raise UserError(f"vmas/{short} does not know all of its arguments: leave them away. {warning}") from warning
    limit = preset.max_steps if max_steps == "default" else max_steps
    kind = type(env.scenario)
    ends_early = kind.done is not BaseScenario.done
    # what the package's own presets say changes with its version alone
    code = fingerprint(kind, {} if preset in SHIPPED else preset.kwargs)
    return Base(env, preset.aux, preset.hide, limit, preset.description, ends_early, code)


def _smax_base(short: str, max_steps: int | str | None, **kwargs) -> Base:
    limit = smax_layouts.STEP_LIMIT if max_steps == "default" else max_steps
    env = SmaxEnv(short, max_steps=limit, **kwargs)
    sides = env.battles.units.num_allies, env.battles.units.num_enemies
    description = ", ".join([f"a battle of {sides[0]} against {sides[1]} units", *env.says])
    return Base(env, "history", smax_layouts.HIDDEN, limit, description, ends_early=True)


GUARD = ("step_timeout", "reset_timeout", "retries", "restart_every")


def _smac_base(
    short: str,
    max_steps: int | str | None,
    *,
    num_envs: int,
    seed: int | None,
    device: torch.device | str,
    **kwargs,
) -> Base:
    guard = {"restart_every": RESTART_EVERY} | {name: kwargs.pop(name) for name in GUARD if name in kwargs}
    battle = partial(SmacEnv, short, max_steps=max_steps, **kwargs)
    one = battle(seed=None)  # launches nothing: for its sizes and names
    seeds = [None] * num_envs
    if seed is not None:  # far apart: the battles of seed 0 and of seed 1 have no engine's seed in common
        seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(num_envs) // 2]
    env = parallel_env(partial(_guarded, battle, guard), num_envs, seeds)
    if torch.device(device) != env.device:
        env = env.to(device)
    env.state_layout, env.observation_layout, env.own_time_limit = one.state_layout, one.observation_layout, True
    sides = one.state_layout.entities
    allies = sum(entity.startswith("ally_") for entity in sides)
    enemies = sum(entity.startswith("enemy_") for entity in sides)
    description = ", ".join([f"a battle of {allies} against {enemies} units", *one.says])
    hidden = hidden_by_default(one.observation_layout)
    one.close()
    # the paper's: Eq. 1 on SMACv1's maps, Eq. 2 on SMACv2's
    aux = "joint" if smac_maps.is_generated(short) else "history"
    return Base(env, aux, hidden, one.max_steps, description, ends_early=True)


def _guarded(battle: Callable[..., SmacEnv], guard: dict, seed: int | None = None) -> GuardedEnv:
    """At the top level of a module, so that it can be sent to a worker process."""
    return GuardedEnv(partial(battle, seed=seed), seed=seed, **guard)


FAMILIES: dict[str, Callable[..., Base]] = {
    "vmas": _vmas_base,
    "smax": _smax_base,
    "smac": _smac_base,
    "smacv2": _smac_base,
}
