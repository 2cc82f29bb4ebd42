"""Who fights where on each map of SMAC: team lists, spawn points and orders, as the maps' scripts have them."""

from __future__ import annotations

from dataclasses import dataclass

SIZE = 32
MARKER = b"sc2_standin map, no StarCraft map: "
GENERATED = "32x32_flat"  # the map of every 10gen_* scenario: it spawns nothing itself
ALL_RL = ("Baneling", "Colossus", "Hydralisk", "Marauder", "Marine", "Medivac", "Stalker", "Zealot", "Zergling")

Point = tuple[float, float]
Group = tuple[int, str, Point]  # how many, of what kind, around which point


@dataclass(frozen=True)
class Map:
    """``attack``: the point that the computer's units are sent to at the start; None where the map gives no order."""

    allies: tuple[Group, ...] = ()
    enemies: tuple[Group, ...] = ()
    attack: Point | None = None

    @property
    def ally_kinds(self) -> tuple[str, ...]:
        """The kinds that have an ``*_RL`` type on this map."""
        return tuple(sorted({kind for _, kind, _ in self.allies})) or ALL_RL


def _facing(allies: str, enemies: str) -> Map:
    """The usual layout, teams facing each other from west and east: ``"7 Marine, 2 Marauder"`` against another."""
    west, east = (9.0, 16.0), (23.0, 16.0)

    def groups(text: str, point: Point) -> tuple[Group, ...]:
        pairs = (item.split() for item in text.split(","))
        return tuple((int(count), kind, point) for count, kind in pairs)

    return Map(groups(allies, west), groups(enemies, east), west)


def _group(count: int, kind: str, x: float, y: float) -> Group:
    return count, kind, (x, y)


MAPS = {
    GENERATED: Map(),
    "3m": _facing("3 Marine", "3 Marine"),
    "8m": _facing("8 Marine", "8 Marine"),
    "25m": _facing("25 Marine", "25 Marine"),
    "5m_vs_6m": _facing("5 Marine", "6 Marine"),
    "8m_vs_9m": _facing("8 Marine", "9 Marine"),
    "10m_vs_11m": _facing("10 Marine", "11 Marine"),
    "27m_vs_30m": _facing("27 Marine", "30 Marine"),
    "MMM": _facing("7 Marine, 2 Marauder, 1 Medivac", "7 Marine, 2 Marauder, 1 Medivac"),
    "MMM2": _facing("7 Marine, 2 Marauder, 1 Medivac", "8 Marine, 3 Marauder, 1 Medivac"),
    "2s3z": _facing("2 Stalker, 3 Zealot", "2 Stalker, 3 Zealot"),
    "3s5z": _facing("3 Stalker, 5 Zealot", "3 Stalker, 5 Zealot"),
    "3s5z_vs_3s6z": _facing("3 Stalker, 5 Zealot", "3 Stalker, 6 Zealot"),
    "3s_vs_3z": _facing("3 Stalker", "3 Zealot"),
    "3s_vs_4z": _facing("3 Stalker", "4 Zealot"),
    "3s_vs_5z": _facing("3 Stalker", "5 Zealot"),
    "1c3s5z": _facing("1 Colossus, 3 Stalker, 5 Zealot", "1 Colossus, 3 Stalker, 5 Zealot"),
    "2m_vs_1z": Map(
        (_group(1, "Marine", 13, 12), _group(1, "Marine", 19, 12)), (_group(1, "Zealot", 16, 19),), (19, 12)
    ),
    "corridor": Map((_group(6, "Zealot", 19.04, 19.12),), (_group(24, "Zergling", 27.91, 28.24),), (4.47, 4.33)),
    "6h_vs_8z": Map((_group(6, "Hydralisk", 14.6, 9.49),), (_group(8, "Zealot", 14.41, 16.76),), (14.6, 9.49)),
    "2s_vs_1sc": Map(
        (_group(1, "Stalker", 11.12, 10.34), _group(1, "Stalker", 16.98, 10.37)),
        (_group(1, "SpineCrawler", 13.92, 20.04),),
    ),
    "so_many_baneling": Map(
        (_group(7, "Zealot", 11.47, 12.02),), (_group(32, "Baneling", 27.91, 28.24),), (4.47, 4.33)
    ),
    "bane_vs_bane": Map(
        (_group(20, "Zergling", 16, 11), _group(4, "Baneling", 16, 8)),
        (_group(20, "Zergling", 16, 21), _group(4, "Baneling", 16, 24)),
        (16, 8),
    ),
    "2c_vs_64zg": Map((_group(2, "Colossus", 16, 16),), (_group(64, "Zergling", 16, 9),)),
}


def map_file(name: str) -> bytes:
    """What stands in the placeholder of a map: its name, and that it is none."""
    return MARKER + name.encode() + b"\n"


def map_name(data: bytes) -> str | None:
    """The name in a placeholder; None for anything else."""
    return data[len(MARKER) :].decode().strip() if data.startswith(MARKER) else None
