"""What the maps' triggers and the computer player do around a battle: spawning, respawning, attacking."""

from __future__ import annotations

import math

from .combat import ALLY, ENEMY, Battle, Order, Unit
from .maps import MAPS, SIZE
from .units import ally_types, game_types

ORDERS_EVERY = 8  # game loops; 32x32_flat's trigger has a period of half a second
SIGHT = 8.0  # at which units that walk to a point turn on an enemy, from edge to edge
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


class Scenario:
    """A map with a battle on it. Debug commands wait in ``kill`` and ``create`` for the next loop, as in the game.

    The teams of a v1 map stand at the start, and again in the very loop in which no unit of either side is left (the
    maps' trigger), or ``respawn_delay`` loops later. ``32x32_flat`` has no teams: debug commands create them.
    """

    def __init__(self, name: str, seed: int | None = None, damage: float = 1.0, respawn_delay: int = 0):
        self.name, self.map, self.respawn_delay = name, MAPS[name], respawn_delay
        self.battle = Battle(SIZE, seed, {ENEMY: damage})
        self.ally_types = ally_types(self.map.ally_kinds)
        self.types = {**game_types(), **self.ally_types}
        self.kill: list[int] = []
        self.create: list[tuple[int, int, float, float]] = []  # type id, owner, x, y
        self.dead: list[int] = []  # tags since the last observation
        self._sent: set[int] = set()  # the computer's units that still walk to the map's attack point
        self._spawn_at: int | None = None
        self._spawn_teams()

    def advance(self) -> None:
        """One game loop."""
        battle = self.battle
        died = battle.remove(self.kill)
        for unit_type, owner, x, y in self.create:
            battle.spawn(self.types[unit_type], owner, x, y, unit_type)
        self.kill, self.create = [], []
        if battle.loop % ORDERS_EVERY == 0:
            self._command()
        died += battle.advance()
        self.dead += [unit.tag for unit in died]
        self._respawn(bool(died))

    def _respawn(self, somebody_died: bool) -> None:
        if somebody_died and not self.battle.units:
            self._spawn_at = self.battle.loop + self.respawn_delay
        if self._spawn_at is not None and self.battle.loop >= self._spawn_at:
            self._spawn_teams()

    def _spawn_teams(self) -> None:
        self._spawn_at = None
        types = {kind.name: unit_type for unit_type, kind in self.ally_types.items()}
        for owner, groups in ((ALLY, self.map.allies), (ENEMY, self.map.enemies)):
            placed: dict[tuple[float, float], int] = {}
            for count, name, point in groups:
                for _ in range(count):
                    nth = placed.get(point, 0)
                    placed[point] = nth + 1
                    self._place(name, owner, point, nth, types.get(name) if owner == ALLY else None)
        self._sent = {unit.tag for unit in self.battle.team(ENEMY)} if self.map.attack else set()

    def _place(self, name: str, owner: int, point: tuple[float, float], nth: int, unit_type: int | None) -> None:
        """The n-th unit of a crowd around a point: a sunflower's pattern, which is dense and round."""
        kind = next(kind for kind in self.types.values() if kind.name == name)
        radius, angle = 1.25 * kind.radius * math.sqrt(nth), nth * GOLDEN_ANGLE
        jitter = self.battle.random.uniform
        x = point[0] + radius * math.cos(angle) + jitter(-0.1, 0.1)
        y = point[1] + radius * math.sin(angle) + jitter(-0.1, 0.1)
        self.battle.spawn(kind, owner, x, y, unit_type)

    def _command(self) -> None:
        """The computer player: every unit attacks the nearest ally; a medivac heals, or follows the others."""
        enemies, allies = self.battle.team(ENEMY), self.battle.team(ALLY)
        for unit in enemies:
            unit.order = self._heal(unit, enemies) if unit.kind.energy_max else self._attack(unit, allies)

    def _attack(self, unit: Unit, allies: list[Unit]) -> Order | None:
        targets = [ally for ally in allies if unit.can_attack(ally)]
        nearest = min(targets, key=unit.gap, default=None)
        if unit.tag in self._sent:  # v1 maps: walk to the point, but fight what comes near
            there = math.dist((unit.x, unit.y), self.map.attack) < 2
            if nearest is not None and unit.gap(nearest) > SIGHT and not there:
                return Order("move", self.map.attack)
            self._sent.discard(unit.tag)
        if nearest is None:
            return None
        current = self.battle.units.get(unit.order.target) if unit.order else None
        if current is not None and unit.gap(current) <= unit.kind.range:
            return unit.order  # no wavering between two that are equally near
        return Order("attack", target=nearest.tag)

    @staticmethod
    def _heal(unit: Unit, comrades: list[Unit]) -> Order | None:
        ground = [other for other in comrades if unit.can_heal(other)]
        wounded = [other for other in ground if other.life < other.kind.life]
        if wounded and unit.energy > 1:
            return Order("heal", target=min(wounded, key=unit.gap).tag)
        leader = min(ground, key=unit.gap, default=None)
        return Order("move", (leader.x, leader.y)) if leader else None
