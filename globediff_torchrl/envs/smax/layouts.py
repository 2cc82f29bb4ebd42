"""What SMAX's scenarios are called, and what the numbers of its observations and states are. Does not import jax."""

from __future__ import annotations

import re
from collections.abc import Sequence

from globediff_torchrl.layout import Feature, FeatureLayout

# jaxmarl's own names, so that they can be listed where jax is not installed; a test compares them
SCENARIOS = (
    "3m",
    "2s3z",
    "25m",
    "3s5z",
    "8m",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
)
UNIT_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
HIDDEN = ("enemy_*.health", "enemy_*.type")  # SMAC (PO): what an enemy is and how much it can still take
STEP_LIMIT = 101  # jaxmarl looks at its clock before it moves it: with max_steps=100 the 101st step is the last
LAST_STEP = 2**30  # the clock is an int32

_ENDING = re.compile(r"(_[xy]|_bits?_\d+)$")
_NAMES = {  # jaxmarl's name -> ours and its kind
    "health": ("health", "health"),
    "last_movement": ("last_movement", "action"),
    "last_targeted": ("last_target", "action"),
    "weapon_cooldown": ("cooldown", "other"),
    "unit_type": ("type", "type"),
}


def _features(entity: str, names: Sequence[str], position: str) -> list[Feature]:
    """One entity's features from jaxmarl's list of its numbers: ``position_x, position_y`` are one of size 2."""
    known = {**_NAMES, "position": (position, position)}
    sizes: dict[str, int] = {}
    for name in names:
        base = _ENDING.sub("", name)
        sizes[base] = sizes.get(base, 0) + 1
    return [Feature(entity, *known.get(base, (base, "other")), size) for base, size in sizes.items()]


def observation_layout(
    allies: int, enemies: int, unit_features: Sequence[str], own_features: Sequence[str]
) -> FeatureLayout:
    """An agent's observation: the other allies in order, the enemies in order, itself.

    ``ally_1`` is the first of the other allies, whoever that is for the agent; ``enemy_0`` is the same unit for all
    agents, the one that action 5 attacks, and the one of that name in the state.

    Args:
        unit_features, own_features: jaxmarl's description of the numbers.
    """
    features = []
    for name in [f"ally_{k}" for k in range(1, allies)] + [f"enemy_{k}" for k in range(enemies)]:
        features += _features(name, unit_features, "offset")
    return FeatureLayout((*features, *_features("own", own_features, "position")))


def state_layout(allies: int, enemies: int, types: int) -> FeatureLayout:
    """The world, one unit after the other; all zero for the dead.

    Args:
        types: how many unit types there are; 0 where each unit's type is fixed by the scenario. Then a bit says that
            the unit lives, which elsewhere the type's one-hot code does.
    """
    features = []
    for side, count in (("ally", allies), ("enemy", enemies)):
        for k in range(count):
            unit, owner = f"{side}_{k}", k if side == "ally" else None
            features += [
                Feature(unit, "health", "health", 1, owner),
                Feature(unit, "position", "position", 2, owner),
                Feature(unit, "cooldown", "other", 1, owner),
                Feature(unit, "type", "type", types, owner) if types else Feature(unit, "alive", "flag", 1, owner),
            ]
    return FeatureLayout(tuple(features))


def target_layout(enemies: int, types: int) -> FeatureLayout:
    """The relative target: each enemy's health, type (where it varies) and whether it lives; all zero for the dead."""
    features = []
    for k in range(enemies):
        unit = f"enemy_{k}"
        features.append(Feature(unit, "health", "health"))
        if types:
            features.append(Feature(unit, "type", "type", types))
        features.append(Feature(unit, "alive", "flag"))
    return FeatureLayout(tuple(features))
