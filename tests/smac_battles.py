"""What the tests of SMAC share: the maps' public sizes, teams that know what to do, and episodes of theirs."""

from __future__ import annotations

import torch

from globediff_torchrl import keys
from globediff_torchrl.envs.smac.maps import SMACV1_MAPS

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


def played(env, steps, seed=100):
    env.set_seed(seed)
    torch.manual_seed(1)
    return env.rollout(steps, break_when_any_done=False)


def positions(env, state, side):
    """``[T, units, 2]`` in map units."""
    columns = env.state_layout.select(f"{side}_*.position")
    return state[:, columns].reshape(len(state), -1, 2) * 32
