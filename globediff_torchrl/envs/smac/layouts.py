"""What the numbers of SMAC's observations and states are, from smacv2's own list of their names. Needs no smacv2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from globediff_torchrl.errors import UserError
from globediff_torchrl.layout import Feature, FeatureLayout

# SMAC (PO): what an enemy is and how much it can still take
HIDDEN = ("enemy_*.health", "enemy_*.shield", "enemy_*.type")

# a name of smacv2's: the unit's feature, the number of the unit, and of a feature of several numbers which one
_UNIT = re.compile(r"(?P<side>ally|enemy)_(?P<what>[a-z_]+?)_(?P<unit>\d+)(?:_(?:bit|action)_\d+)?")
_OWN = re.compile(r"own_(?P<what>[a-z_]+?)(?:_bit_\d+)?")
_AROUND = re.compile(r"(?P<what>move_action|pathing_grid|terrain_height)_(?:north|south|east|west|\d+)")
_ENDING = re.compile(r"_[xy]$")
_NAMES = {  # smacv2's name without _x and _y -> ours and its kind
    "shootable": ("shootable", "flag"),
    "visible": ("visible", "flag"),
    "distance": ("distance", "range"),
    "health": ("health", "health"),
    "shield": ("shield", "health"),
    "cooldown": ("cooldown", "other"),  # a medivac's energy
    "attack_prob": ("attack_prob", "other"),
    "health_level": ("health_level", "other"),
    "pos": ("position", "position"),
    "fov": ("fov", "rotation"),
    "unit_type": ("type", "type"),
    "last_action": ("last_action", "action"),
    "move_action": ("can_move", "flag"),
    "pathing_grid": ("pathing", "flag"),
    "terrain_height": ("terrain", "other"),
    "timestep": ("time", "time"),
}


def observation_layout(names: Sequence[str]) -> FeatureLayout:
    """An agent's observation: where it can go, the enemies in order, the other allies in order, itself.

    ``ally_1`` is the first of the other allies, whoever that is for the agent; ``enemy_0`` is the same unit for all
    agents, the one that the first attack aims at, and the one of that name in the state. For a medivac ``shootable``
    of enemy k says that ally k can be healed.

    Args:
        names: smacv2's ``get_obs_feature_names()``.

    Raises:
        UserError: a name that is not known here, or numbers of one feature that are not neighbours.
    """
    return _layout(names, "offset", owned=False)


def state_layout(names: Sequence[str]) -> FeatureLayout:
    """The world: the allies, the enemies, the allies' last actions; zero for the dead, whose last action is the no-op.

    Args:
        names: smacv2's ``get_state_feature_names()``.

    Raises:
        UserError: as :func:`observation_layout`.
    """
    return _layout(names, "position", owned=True)


def hidden_by_default(layout: FeatureLayout) -> tuple[str, ...]:
    """Those of :data:`HIDDEN` that the observation has: Terran and Zerg have no shields, 3m has one unit type."""
    return tuple(p for p in HIDDEN if any(fnmatchcase(name, p) for name in layout.names))


def _layout(names: Sequence[str], relative: str, owned: bool) -> FeatureLayout:
    runs: list[list] = []  # entity, name, kind, owner, size
    for name in names:
        key = _feature(name, relative, owned)
        if runs and runs[-1][:-1] == list(key):
            runs[-1][-1] += 1
        else:
            runs.append([*key, 1])
    return FeatureLayout(tuple(Feature(entity, name, kind, size, owner) for entity, name, kind, owner, size in runs))


def _feature(name: str, relative: str, owned: bool) -> tuple[str, str, str, int | None]:
    """Entity, name, kind and owner of the feature to which a number belongs."""
    if match := _UNIT.fullmatch(name):
        side, unit = match["side"], int(match["unit"])
        entity, owner = f"{side}_{unit}", unit if owned and side == "ally" else None
    elif match := (_OWN.fullmatch(name) or _AROUND.fullmatch(name)):
        entity, owner = "own", None
    elif name == "timestep":
        return "battle", *_NAMES[name], None
    else:
        raise _unknown_name(name)
    what = _ENDING.sub("", match["what"])
    if what == "relative":
        return entity, relative, relative, owner
    if what not in _NAMES:
        raise _unknown_name(name)
    return entity, *_NAMES[what], owner


def _unknown_name(name: str) -> UserError:
    return UserError(
        f"smacv2 names a number {name!r}, which is not known here; expected names of smacv2 1.0.0: install that "
        "version (docs/smac.md)."
    )
