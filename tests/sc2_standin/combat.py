"""One game loop of a battle between units on an empty plane; a test fixture, not StarCraft.

A unit does what its order says: stand, walk to a point, attack a unit (walk until it is in range, then fire whenever
the weapon is ready), heal a unit. Nobody chooses targets here: allies on SMAC's maps are passive, and the computer
player's orders come from ``scenario``. All hits of a loop land together at its end, so no side has the first shot.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .units import ENERGY_PER_LOOP, HEAL_PER_LOOP, SHIELD_DELAY, SHIELD_PER_LOOP, Kind

ALLY, ENEMY = 1, 2
FIRST_TAG = 1 << 32  # tags of a new game begin anew, as the game's do


@dataclass(frozen=True)
class Order:
    """``what``: move (to ``point``), attack or heal (``target``, a tag)."""

    what: str
    point: tuple[float, float] = (0.0, 0.0)
    target: int = 0


@dataclass
class Unit:
    tag: int
    kind: Kind
    unit_type: int
    owner: int
    x: float
    y: float
    life: float
    shield: float
    energy: float
    cooldown: float = 0.0
    order: Order | None = None
    since_hit: int = SHIELD_DELAY

    def gap(self, other: Unit) -> float:
        """Distance from edge to edge; negative where they overlap."""
        return math.hypot(other.x - self.x, other.y - self.y) - self.kind.radius - other.kind.radius

    def can_attack(self, other: Unit) -> bool:
        return self.kind.damage > 0 and (self.kind.shoots_up or not other.kind.flies)

    def can_heal(self, other: Unit) -> bool:
        """A medivac heals the infantry of its own side, not itself and nothing that flies."""
        return self.kind.energy_max > 0 and not other.kind.flies and other.owner == self.owner


class Battle:
    """The units that are alive, and what one loop does to them.

    ``damage[owner]`` is a factor on what a player's units deal. ``advance`` returns the units that died in the loop.
    """

    def __init__(self, size: float = 32.0, seed: int | None = None, damage: dict[int, float] | None = None):
        self.size, self.random = size, random.Random(seed)
        self.damage = {ALLY: 1.0, ENEMY: 1.0, **(damage or {})}
        self.units: dict[int, Unit] = {}
        self.loop, self._next_tag = 0, FIRST_TAG

    def spawn(self, kind: Kind, owner: int, x: float, y: float, unit_type: int | None = None) -> Unit:
        """Put a fresh unit at a point; ``advance`` pushes units that overlap apart."""
        self._next_tag += 1
        unit_type = kind.unit_type if unit_type is None else unit_type
        unit = Unit(self._next_tag, kind, unit_type, owner, x, y, kind.life, kind.shield, kind.energy)
        self.units[unit.tag] = unit
        self._keep_inside(unit)
        return unit

    def team(self, owner: int) -> list[Unit]:
        return [unit for unit in self.units.values() if unit.owner == owner]

    def advance(self) -> list[Unit]:
        self.loop += 1
        hits: list[tuple[Unit, Unit, float]] = []
        for unit in self.units.values():
            self._recover(unit)
        for unit in self.units.values():
            if unit.order is not None:
                self._obey(unit, hits)
        dead = self._land(hits)
        self._separate()
        return dead

    def remove(self, tags) -> list[Unit]:
        """Take units off the field, as a debug command does: a baneling removed so does not explode."""
        return [self.units.pop(tag) for tag in list(tags) if tag in self.units]

    @staticmethod
    def _recover(unit: Unit) -> None:
        kind = unit.kind
        unit.cooldown = max(0.0, unit.cooldown - 1)
        unit.since_hit += 1
        unit.life = min(kind.life, unit.life + kind.regen)
        unit.energy = min(kind.energy_max, unit.energy + ENERGY_PER_LOOP)
        if unit.since_hit > SHIELD_DELAY:
            unit.shield = min(kind.shield, unit.shield + SHIELD_PER_LOOP)

    def _obey(self, unit: Unit, hits: list) -> None:
        order = unit.order
        if order.what == "move":
            if self._walk(unit, *order.point, math.inf):
                unit.order = None
            return
        target = self.units.get(order.target)
        if target is None:  # it died: an order on a unit ends with it
            unit.order = None
            return
        missing = unit.gap(target) - unit.kind.range
        if missing > 1e-6:
            self._walk(unit, target.x, target.y, missing)
        elif order.what == "heal":
            self._heal(unit, target)
        elif unit.cooldown <= 0:
            self._fire(unit, target, hits)

    def _walk(self, unit: Unit, x: float, y: float, at_most: float) -> bool:
        """A loop's walk towards a point; True on arrival."""
        dx, dy = x - unit.x, y - unit.y
        distance = math.hypot(dx, dy)
        step = min(unit.kind.speed, at_most, distance)
        if distance > 0:
            unit.x += dx * step / distance
            unit.y += dy * step / distance
        self._keep_inside(unit)
        return distance <= unit.kind.speed

    @staticmethod
    def _heal(unit: Unit, target: Unit) -> None:
        points = min(HEAL_PER_LOOP, target.kind.life - target.life, 3 * unit.energy)
        target.life += points
        unit.energy -= points / 3
        if target.life >= target.kind.life:
            unit.order = None

    def _fire(self, unit: Unit, target: Unit, hits: list) -> None:
        kind = unit.kind
        # the game varies every pause between shots by -1 to +2 loops, which keeps equal battles from being identical
        unit.cooldown = max(1.0, kind.period + self.random.uniform(-1, 2))
        if kind.suicide:
            hits.append((unit, unit, math.inf))
            return
        for victim in self._within(target, kind.splash, target.owner) if kind.splash else [target]:
            hits.append((unit, victim, self._volley(unit, victim)))

    def _within(self, centre: Unit, radius: float, owner: int) -> list[Unit]:
        near = (u for u in self.units.values() if u.owner == owner and centre.gap(u) + centre.kind.radius <= radius)
        return [unit for unit in near if unit is centre or not unit.kind.flies]

    def _volley(self, unit: Unit, victim: Unit) -> float:
        """Points of one volley before armour."""
        kind = unit.kind
        bonus = kind.bonus if kind.against and victim.kind.attribute == kind.against else 0.0
        return (kind.damage + bonus) * self.damage[unit.owner]

    def _land(self, hits: list) -> list[Unit]:
        """Apply the hits; a baneling that falls explodes in its turn, whoever killed it."""
        dead: dict[int, Unit] = {}
        while hits:
            for unit, victim, points in hits:
                for _ in range(unit.kind.hits):
                    wound(victim, points)
            fallen = [unit for unit in self.units.values() if unit.life <= 0]
            for unit in fallen:
                dead[unit.tag] = self.units.pop(unit.tag)
            hits = []
            for unit in (u for u in fallen if u.kind.suicide):
                for victim in self._within(unit, unit.kind.splash, ALLY + ENEMY - unit.owner):
                    hits.append((unit, victim, self._volley(unit, victim)))
        return list(dead.values())

    def _separate(self) -> None:
        """Push overlapping units apart, half of the overlap each; what flies and what stands below do not meet."""
        units = sorted(self.units.values(), key=lambda unit: unit.x)
        for i, unit in enumerate(units):
            for other in units[i + 1 :]:
                reach = unit.kind.radius + other.kind.radius
                dx = other.x - unit.x
                if dx >= unit.kind.radius + 1.125:  # the largest radius there is: nobody further right can touch
                    break
                dy = other.y - unit.y
                if abs(dy) < reach and dx < reach and unit.kind.flies == other.kind.flies:
                    self._push(unit, other, dx, dy, reach)

    def _push(self, unit: Unit, other: Unit, dx: float, dy: float, reach: float) -> None:
        distance = math.hypot(dx, dy)
        if distance >= reach:
            return
        if distance < 1e-6:  # at the same point: any direction will do
            angle = self.random.uniform(0, 2 * math.pi)
            dx, dy, distance = math.cos(angle), math.sin(angle), 1.0
            overlap = reach
        else:
            overlap = reach - distance
        movable = (unit.kind.speed > 0) + (other.kind.speed > 0)
        for one, sign in ((unit, -1), (other, 1)):
            if one.kind.speed > 0:
                one.x += sign * dx / distance * overlap / movable
                one.y += sign * dy / distance * overlap / movable
                self._keep_inside(one)

    def _keep_inside(self, unit: Unit) -> None:
        edge = unit.kind.radius
        unit.x = min(max(unit.x, edge), self.size - edge)
        unit.y = min(max(unit.y, edge), self.size - edge)


def wound(unit: Unit, points: float) -> None:
    """One hit: shields take it first and whole; what is left meets the armour, and at least half a point goes through.

    A factor of 0 on the damage means none at all.
    """
    if points <= 0:
        return
    unit.since_hit = 0
    absorbed = min(unit.shield, points)
    unit.shield -= absorbed
    if points > absorbed:
        unit.life -= max(0.5, points - absorbed - unit.kind.armour)
