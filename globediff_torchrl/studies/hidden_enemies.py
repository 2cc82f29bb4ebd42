"""What is told of hidden enemies in battles: their health and types, those in sight of the agent and the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from globediff_torchrl import keys
from globediff_torchrl.layout import FeatureLayout
from globediff_torchrl.studies.inferability import (
    accuracy,
    coverage,
    energy_score,
    episode_error,
    r_squared,
    r_squared_error,
    spread_over_error,
)

HEALTH, TYPE = "enemy_*.health", "enemy_*.type"


def battle_reader(layout: FeatureLayout) -> Callable[[TensorDictBase], TensorDict]:
    """What :func:`~globediff_torchrl.studies.recorded.record_episodes` keeps of a step of a battle (PO).

    Args:
        layout: the observation's.

    Returns:
        a function of the step's tensordict that gives ``observation`` ``[B, n, k]`` (enemies' health and type left
        out), ``seen`` ``[B, n, enemies]``, ``last_action`` ``[B, n]``, ``alive`` ``[B, n]``, ``relative``
        ``[B, n, d_t]`` (``target_state``), ``absolute`` ``[B, d_s]`` (``state``), ``step`` ``[B]``.
    """
    hidden = set(layout.select([HEALTH, TYPE]).tolist())
    columns = torch.tensor([i for i in range(layout.size) if i not in hidden])
    enemies = torch.stack([layout.select(f"{name}.*") for name in layout.entities if name.startswith("enemy")])

    def read(td: TensorDictBase) -> TensorDict:
        action = td[keys.LAST_ACTION]
        return TensorDict(
            {
                "observation": td[keys.OBSERVATION][..., columns],
                "seen": (td[keys.OBSERVATION][..., enemies] != 0).any(-1),  # out of sight an enemy's row is all zero
                "last_action": torch.where(action.any(-1), action.argmax(-1), -1).to(torch.int8),
                "alive": td[keys.ACTIVE_MASK].squeeze(-1),
                "relative": td[keys.TARGET_STATE],
                "absolute": td[keys.STATE],
                "step": td[keys.STEP_COUNT].squeeze(-1),
            },
            td.batch_size,
        ).clone()  # the environment writes into what it gave

    return read


def judge_enemies(
    truth: Tensor, estimate: Tensor, samples: Tensor | None, seen: Tensor, episode: Tensor, layout: FeatureLayout
) -> dict[str, float]:
    """Figures of estimates, and of samples where there are some.

    ``energy``, the energy score over all enemies' health and types in units of their spread. Then, with ``_all``,
    ``_seen`` and ``_unseen`` by the agent itself, now: of living enemies the R2 of health ``hp``, that of the damaged
    ones ``hurt``, the accuracy of types ``type``, the standard errors over episodes ``hp_se`` and ``type_se``, and
    the R2 of the point estimate beside that of the samples' mean ``hp_center``; :func:`calibration` of all enemies.

    Args:
        truth, estimate: ``[M, d]``. samples: ``[M, S, d]`` or None. seen: ``[M, enemies]``.
        episode: ``[M]``. layout: of the d numbers; types are one-hot, all zero for the dead, as is their health.
    """
    hp = layout.select(HEALTH)
    kind = layout.select(TYPE).view(len(hp), -1)  # [enemies, types]
    scale = truth.std(0).clamp(min=0.05)  # a type that hardly occurs in these rows must not outweigh all
    hidden = torch.cat([hp, kind.flatten()])
    points = estimate.unsqueeze(1) if samples is None else samples
    out = {"energy": energy_score((points / scale)[..., hidden], (truth / scale)[:, hidden])}
    alive = truth[:, kind].sum(-1) > 0.5  # [M, enemies]
    episode = episode[:, None].expand_as(alive)
    mean = estimate if samples is None else samples.mean(1)
    health = if_alive(mean, hp, kind)
    for name, group in (("all", torch.ones_like(seen)), ("seen", seen), ("unseen", ~seen)):
        mask = alive & group
        figures = _of_the_living(
            health[mask], truth[:, hp][mask], mean[:, kind][mask], truth[:, kind][mask], episode[mask]
        )
        if samples is not None:
            figures["hp_center"] = r_squared(if_alive(estimate, hp, kind)[mask], truth[:, hp][mask])
            figures |= calibration(samples[..., hp], samples[..., kind], truth[:, hp], truth[:, kind], group)
        out |= {f"{figure}_{name}": value for figure, value in figures.items()}
    return out


def _of_the_living(
    health: Tensor, true_health: Tensor, kind: Tensor, true_kind: Tensor, episode: Tensor
) -> dict[str, float]:
    """Of living enemies, ``[L]`` and ``[L, types]``."""
    hurt = true_health < 0.999
    hit = (kind.argmax(-1) == true_kind.argmax(-1)).double()
    terms = torch.stack([hit, torch.ones_like(hit)], -1)
    return {
        "hp": r_squared(health, true_health),
        "hurt": r_squared(health[hurt], true_health[hurt]),
        "type": accuracy(kind, true_kind),
        "hp_se": r_squared_error(health, true_health, episode),
        "type_se": episode_error(terms, episode, lambda sums: sums[:, 0] / sums[:, 1]),
    }


def if_alive(estimate: Tensor, hp: Tensor, kind: Tensor) -> Tensor:
    """Health if the enemy lives, ``[M, enemies]``: E[h | x, alive] = E[h | x] / P(alive | x), as the dead have none.

    An enemy out of sight may be dead for all that x tells; the types' sum is the estimate of whether it lives.

    Args:
        estimate: ``[M, d]``. hp: columns of the health ``[enemies]``. kind: of the types ``[enemies, types]``.
    """
    return (estimate[:, hp] / estimate[:, kind].sum(-1).clamp(min=0.05)).clamp(0, 1)


def calibration(health: Tensor, kind: Tensor, true_health: Tensor, true_kind: Tensor, group: Tensor) -> dict:
    """Spread over error, coverage, and the R2 of one sample and of the mean, of a group of enemies that x decides.

    The dead, who have zeros, are among the unseen. Chosen by what is true, e.g. among the living alone, exact posterior
    samples would not be calibrated either.

    Args:
        health, kind: samples ``[M, S, enemies]`` and ``[M, S, enemies, types]``. true_health, true_kind: without S.
        group: ``[M, enemies]`` (bool).
    """
    drawn, drawn_kind = health.transpose(1, 2)[group], kind.transpose(1, 2)[group]  # [L, S], [L, S, types]
    truth, truth_kind = true_health[group], true_kind[group]
    return {
        "hp_ratio": spread_over_error(drawn, truth),
        "type_ratio": spread_over_error(drawn_kind, truth_kind),
        "hp_cover": coverage(drawn, truth),
        "type_cover": coverage(drawn_kind, truth_kind),
        "hp_sample": r_squared(drawn[:, 0], truth),
        "hp_mean": r_squared(drawn.mean(1), truth),
    }
