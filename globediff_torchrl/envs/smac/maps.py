"""SMAC's maps: what they are called, how large they are, how they are configured. Imports nothing of StarCraft's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from globediff_torchrl.errors import UserError, unknown

# SMACv1's maps: (agents, enemies, time limit in steps), so that they can be listed where smacv2 is not installed; a
# test compares them with smacv2's own
SMACV1_MAPS: dict[str, tuple[int, int, int]] = {
    "3m": (3, 3, 60),
    "8m": (8, 8, 120),
    "25m": (25, 25, 150),
    "5m_vs_6m": (5, 6, 70),
    "8m_vs_9m": (8, 9, 120),
    "10m_vs_11m": (10, 11, 150),
    "27m_vs_30m": (27, 30, 180),
    "MMM": (10, 10, 150),
    "MMM2": (10, 12, 180),
    "2s3z": (5, 5, 120),
    "3s5z": (8, 8, 150),
    "3s5z_vs_3s6z": (8, 9, 170),
    "3s_vs_3z": (3, 3, 150),
    "3s_vs_4z": (3, 4, 200),
    "3s_vs_5z": (3, 5, 250),
    "1c3s5z": (9, 9, 180),
    "2m_vs_1z": (2, 1, 150),
    "corridor": (6, 24, 400),
    "6h_vs_8z": (6, 8, 150),
    "2s_vs_1sc": (2, 1, 300),
    "so_many_baneling": (7, 32, 100),
    "bane_vs_bane": (24, 24, 200),
    "2c_vs_64zg": (2, 64, 400),
}
GENERATED_LIMIT = 200
RACES: dict[str, dict[str, Any]] = {  # of the generated maps: types, how often each is drawn, who cannot fight alone
    "zerg": {
        "unit_types": ["zergling", "baneling", "hydralisk"],
        "weights": [0.45, 0.1, 0.45],
        "exception_unit_types": ["baneling"],
    },
    "protoss": {"unit_types": ["stalker", "zealot", "colossus"], "weights": [0.45, 0.45, 0.1]},
    "terran": {
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],
    },
}
SIDES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
SMACV2_MAPS = tuple(f"{race}_{n}_vs_{m}" for race in RACES for n, m in SIDES)  # the published ones; any n, m is taken

DIFFICULTIES = (*"123456789", "A")  # of the computer player, as smacv2 names them
CONFIGURATIONS: dict[str, dict[str, Any]] = {  # of the generated maps; SMACv1's maps have one configuration
    "official": {"use_unit_ranges": True, "min_attack_range": 2, "obs_own_pos": True, "conic_fov": False},
    "paper": {"use_unit_ranges": False, "min_attack_range": 2, "obs_own_pos": False, "conic_fov": False},
}
_GENERATED = re.compile(r"(zerg|protoss|terran)_(\d+)_vs_(\d+)")


@dataclass(frozen=True)
class SmacMap:
    """One map.

    Args:
        map_name: smacv2's own name, ``"3m"`` or ``"10gen_zerg"``.
        file: of the map without its ending, under ``Maps/SMAC_Maps`` of StarCraft II.
        agents, enemies: how many units fight on either side.
        limit: steps after which a battle is over.
        race: of a generated map, None for SMACv1's.
    """

    map_name: str
    file: str
    agents: int
    enemies: int
    limit: int
    race: str | None = None


def is_generated(name: str) -> bool:
    """Whether it is the name of a generated map, ``"<race>_<n>_vs_<m>"`` with n and m above 0."""
    match = _GENERATED.fullmatch(name)
    return match is not None and int(match.group(2)) > 0 and int(match.group(3)) > 0


def smac_map(name: str) -> SmacMap:
    """The map of that name.

    Raises:
        UserError: there is none; the message lists the known ones.
    """
    if is_generated(name):
        race, agents, enemies = _GENERATED.fullmatch(name).groups()
        return SmacMap(f"10gen_{race}", "32x32_flat", int(agents), int(enemies), GENERATED_LIMIT, race)
    if name not in SMACV1_MAPS:
        raise unknown("SMAC map", name, [*SMACV1_MAPS, *SMACV2_MAPS])
    return SmacMap(name, name, *SMACV1_MAPS[name])


def options(game: SmacMap, configuration: str) -> dict[str, Any]:
    """smacv2's arguments for a map; those of SMACv1's are smacv2's defaults in either configuration.

    ``official`` is what smacv2's own examples set; ``paper`` leaves smacv2's constructor defaults, as the code that
    the paper builds on does: then every unit sees 9 and shoots 6 far, and does not observe its position. A team, or
    the further enemies, may then be medivacs or banelings alone.

    Raises:
        UserError: an unknown configuration.
    """
    if configuration not in CONFIGURATIONS:
        raise unknown("configuration", configuration, CONFIGURATIONS)
    if game.race is None:
        return {}
    return {**CONFIGURATIONS[configuration], "capability_config": capabilities(game, configuration)}


def capabilities(game: SmacMap, configuration: str) -> dict[str, Any]:
    """How smacv2 draws the teams and the places of a generated map: as in its own examples, or as the reference has it.

    Of ``paper`` no type is kept from being a whole team, nor all the further enemies.
    """
    race = dict(RACES[game.race])
    if configuration == "paper":
        race.pop("exception_unit_types", None)
    return {
        "n_units": game.agents,
        "n_enemies": game.enemies,
        "team_gen": {"dist_type": "weighted_teams", "observe": True, **race},
        "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
    }


def check_options(given: dict[str, Any], known: set[str]) -> None:
    """Refuses arguments that smacv2's StarCraft2Env does not have, and those that this package sets itself.

    Raises:
        UserError: the message lists the known ones.
    """
    for name in given:
        if name in OURS:
            raise UserError(f"smacv2's argument {name} cannot be given here: {OURS[name]}.")
        if name not in known - set(OURS):
            raise unknown("argument of smacv2's StarCraft2Env", name, sorted(known - set(OURS)))


def read_options(given: dict[str, Any]) -> dict[str, Any]:
    """smacv2's arguments as it takes them: a ``difficulty`` whose quotes a shell has taken is a string again.

    Raises:
        UserError: a difficulty that smacv2 does not know, or a ``game_version`` that is a number, whose last zero is
            lost.
    """
    version, difficulty = given.get("game_version"), given.get("difficulty", DIFFICULTIES[0])
    if version is not None and not isinstance(version, str):
        raise UserError(
            f"game_version is expected to be a string such as '4.10', got the number {version}: give all three parts, "
            "+env.kwargs.game_version=4.10.0, or keep the quotes from the shell, '+env.kwargs.game_version=\"4.10\"'."
        )
    whole = isinstance(difficulty, int) and not isinstance(difficulty, bool)
    if (str(difficulty) if whole else difficulty) not in DIFFICULTIES:
        raise unknown("difficulty", difficulty, DIFFICULTIES)
    return {**given, "difficulty": str(difficulty)} if whole else given


OURS = {
    "self": "it is no argument",
    "map_name": "it is in the environment's name",
    "seed": "use make_env's seed=",
    "continuing_episode": "use time_limit=truncated (the default) or time_limit=terminated",
    "obs_instead_of_state": "smacv2 cannot build it; the critic reads the state",
    "obs_starcraft": "without it nothing is observed",
}
