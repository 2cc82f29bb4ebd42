"""The families of environments: how each makes its own, and what it takes where the caller says nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import vmas
from torchrl.envs import EnvBase

from globediff_torchrl.envs import smax_layouts
from globediff_torchrl.envs.presets import PRESETS, Preset
from globediff_torchrl.envs.smax import SmaxEnv
from globediff_torchrl.envs.vmas import StateVmasEnv
from globediff_torchrl.errors import UserError

STOCK_MAX_STEPS = 100


def available_envs() -> list[str]:
    """Every name that :func:`make_env` takes: our presets first, then VMAS's own scenarios, then SMAX's."""
    stock = vmas.scenarios + vmas.mpe_scenarios + vmas.debug_scenarios
    names = [f"vmas/{name}" for name in [*PRESETS, *sorted(stock)]]
    return names + [f"smax/{name}" for name in smax_layouts.SCENARIOS]


@dataclass(frozen=True)
class Base:
    """An environment of one family, and what :func:`make_env` takes where the caller says nothing."""

    env: EnvBase
    aux: str
    hide: tuple[str, ...]
    max_steps: int | None
    description: str
    ends_early: bool = False


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
    return Base(env, preset.aux, preset.hide, limit, preset.description)


def _smax_base(short: str, max_steps: int | str | None, **kwargs) -> Base:
    limit = smax_layouts.STEP_LIMIT if max_steps == "default" else max_steps
    env = SmaxEnv(short, max_steps=limit, **kwargs)
    sides = env.battles.units.num_allies, env.battles.units.num_enemies
    description = ", ".join([f"a battle of {sides[0]} against {sides[1]} units", *env.says])
    return Base(env, "history", smax_layouts.HIDDEN, limit, description, ends_early=True)


FAMILIES: dict[str, Callable[..., Base]] = {"vmas": _vmas_base, "smax": _smax_base}
