"""The ten kinds of unit that fight on SMAC's maps, and the ids that name them in the protocol.

Life, shields, armour, speed, radius and the ids are those of the map files and of the game; damage, weapon period and
splash are the published ones of patch 4.10, rounded. The beams of a colossus, which burn a line, are one circle of the
same area. A game loop is 1/16 of a "normal" second, and distances are in map cells.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What all units of one kind share. Times in game loops, speeds in cells a loop, ``range`` from edge to edge."""

    name: str
    unit_type: int  # the id of the game's own unit, which the computer player has
    life: float
    radius: float
    speed: float
    damage: float = 0.0
    bonus: float = 0.0  # added against units with the attribute `against`
    against: str = ""
    hits: int = 1  # armour is taken off each hit of a volley
    period: float = 0.0
    range: float = 0.0
    splash: float = 0.0  # radius around the target in which its comrades are hit too
    shield: float = 0.0
    armour: float = 0.0
    energy: float = 0.0
    energy_max: float = 0.0
    regen: float = 0.0  # life a loop
    attribute: str = ""
    flies: bool = False
    shoots_up: bool = False
    suicide: bool = False  # its one attack is its death


_ALL = [
    Kind("Colossus", 4, 200, 0.75, 0.1406, 10, 5, "light", 2, 23.97, 7, 0.7, 150, 1, attribute="armoured"),
    Kind("Baneling", 9, 30, 0.375, 0.1563, 16, 19, "light", 1, 1, 0.25, 2.2, regen=0.0171, suicide=True),
    Kind("Marine", 48, 45, 0.375, 0.1406, 6, period=13.67, range=5, attribute="light", shoots_up=True),
    Kind("Marauder", 51, 125, 0.5625, 0.1406, 10, 10, "armoured", 1, 23.97, 6, armour=1, attribute="armoured"),
    Kind(
        "Medivac", 54, 150, 0.75, 0.1719, range=4, armour=1, energy=50, energy_max=200, attribute="armoured", flies=True
    ),
    Kind("Zealot", 73, 100, 0.5, 0.1406, 8, hits=2, period=19.26, range=0.1, shield=50, armour=1, attribute="light"),
    Kind("Stalker", 74, 80, 0.625, 0.1846, 13, 5, "armoured", 1, 30, 6, 0, 80, 1, attribute="armoured", shoots_up=True),
    Kind("SpineCrawler", 98, 300, 1.125, 0.0, 25, 5, "armoured", 1, 29.6, 7, armour=2, attribute="armoured"),
    Kind("Zergling", 105, 35, 0.375, 0.1846, 5, period=11.1, range=0.1, regen=0.0171, attribute="light"),
    Kind("Hydralisk", 107, 80, 0.625, 0.1406, 12, 0, "", 1, 13.2, 5, regen=0.0171, attribute="light", shoots_up=True),
]
KINDS = {kind.name: kind for kind in _ALL}

# The maps' own ally types ("Marine_RL") stand behind all types of the game, in the order of their names.
FIRST_ALLY_TYPE = 1970

HEAL_PER_LOOP = 0.5625  # a medivac's beam; a third of it is spent as energy
ENERGY_PER_LOOP = 0.0352
SHIELD_PER_LOOP, SHIELD_DELAY = 0.125, 160


def ally_types(names) -> dict[int, Kind]:
    """Type id -> kind of the ``*_RL`` units of a map whose allies are ``names``, in alphabetical order."""
    return {FIRST_ALLY_TYPE + i: KINDS[name] for i, name in enumerate(sorted(names))}


def game_types() -> dict[int, Kind]:
    """Type id -> kind of the game's own units."""
    return {kind.unit_type: kind for kind in _ALL}
