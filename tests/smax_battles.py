"""What the tests of SMAX share."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from globediff_torchrl import keys
from globediff_torchrl.envs.smax import STOP

B = 8


def need_jaxmarl():
    """Skips the file that calls it where jax or jaxmarl is not installed; where one is broken, its tests fail."""
    for package in ("jax", "jaxmarl"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install -e '.[smax]'", allow_module_level=True)


def played(env, steps, seed=0, **kwargs):
    torch.manual_seed(seed)
    env.set_seed(seed)
    return env.rollout(steps, break_when_any_done=False, **kwargs)


def half_attack(td):
    """``("agents", "action")``: in the first half of the battles the first enemy in reach is attacked, else a random
    step; in the others everybody stands still. Against enemies that do not shoot: wins, and ends by the clock."""
    mask = td[keys.ACTION_MASK]
    random = torch.multinomial(mask.flatten(0, -2).float(), 1).view(mask.shape[:-1])
    reach = mask[..., STOP + 1 :]
    fighting = torch.where(reach.any(-1), STOP + 1 + reach.float().argmax(-1), random)
    first = torch.arange(len(mask)).view(-1, 1) < len(mask) // 2
    return td.set(keys.ACTION, torch.where(first, fighting, torch.full_like(fighting, STOP)))


def simulator_values(env):
    """``(types, health share, alive)`` of all units, each ``[B, units]``, straight from the simulator."""
    world = env.base_env._battle[0].state
    units = env.base_env.battles.units
    types = torch.from_dlpack(world.unit_types).long()
    full = torch.from_dlpack(units.unit_type_health).clone()
    return types, torch.from_dlpack(world.unit_health) / full[types], torch.from_dlpack(world.unit_alive)
