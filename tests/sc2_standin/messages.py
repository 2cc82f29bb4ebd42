"""The larger answers: the map, the units on it, and the tables of types."""

from __future__ import annotations

from s2clientprotocol import raw_pb2, sc2api_pb2

from .combat import ALLY, ENEMY, Unit
from .maps import SIZE
from .scenario import Scenario
from .units import FIRST_ALLY_TYPE

ABILITIES = {4: "stop", 16: "move", 23: "attack", 386: "MedivacHeal"}
TERRAIN = 127  # one height everywhere


def game_info(response, name: str, created, race: int) -> None:
    """An empty plane of ``SIZE`` x ``SIZE`` cells, all of it walkable, and the two players."""
    response.map_name, response.local_map_path = name, created.local_map.map_path
    response.options.raw = True
    computer = next(setup for setup in created.player_setup if setup.type == sc2api_pb2.Computer)
    response.player_info.add(player_id=ALLY, type=sc2api_pb2.Participant, race_requested=race, race_actual=race)
    response.player_info.add(
        player_id=ENEMY, type=sc2api_pb2.Computer, race_requested=computer.race, difficulty=computer.difficulty
    )
    raw = response.start_raw
    raw.map_size.x = raw.map_size.y = SIZE
    raw.playable_area.p1.x = raw.playable_area.p1.y = SIZE
    raw.playable_area.p0.x = raw.playable_area.p0.y = 0
    everywhere = bytes([0xFF]) * (SIZE * SIZE // 8)  # one bit a cell, 1 is walkable
    heights = bytes([TERRAIN]) * (SIZE * SIZE)
    for image, bits, data in (
        (raw.pathing_grid, 1, everywhere),
        (raw.placement_grid, 1, everywhere),
        (raw.terrain_height, 8, heights),
    ):
        image.bits_per_pixel, image.size.x, image.size.y, image.data = bits, SIZE, SIZE, data


def observation(response, scenario: Scenario) -> None:
    """Every unit on the map, in the order of creation; the dead since the last observation as an event."""
    battle, out = scenario.battle, response.observation
    out.game_loop = battle.loop
    out.player_common.player_id = ALLY
    out.player_common.army_count = len(battle.team(ALLY))
    out.raw_data.player.camera.x = out.raw_data.player.camera.y = SIZE / 2
    out.raw_data.units.extend([_unit(unit) for unit in battle.units.values()])
    out.raw_data.event.dead_units.extend(scenario.dead)
    scenario.dead = []


def _unit(unit: Unit) -> raw_pb2.Unit:
    kind = unit.kind
    message = raw_pb2.Unit(
        display_type=raw_pb2.Visible,
        alliance=raw_pb2.Self if unit.owner == ALLY else raw_pb2.Enemy,
        tag=unit.tag,
        unit_type=unit.unit_type,
        owner=unit.owner,
        radius=kind.radius,
        build_progress=1.0,
        health=unit.life,
        health_max=kind.life,
        weapon_cooldown=unit.cooldown,
        is_flying=kind.flies,
    )
    message.pos.x, message.pos.y, message.pos.z = unit.x, unit.y, 0.0
    if kind.shield:
        message.shield, message.shield_max = unit.shield, kind.shield
    if kind.energy_max:
        message.energy, message.energy_max = unit.energy, kind.energy_max
    return message


def data(response, request, scenario: Scenario) -> None:
    """Unit types without a gap from 0 to the last ``*_RL`` type: smacv2 finds the allies' ids by counting them."""
    if request.ability_id:
        for ability_id, name in ABILITIES.items():
            response.abilities.add(ability_id=ability_id, link_name=name, friendly_name=name, available=True)
    if request.unit_type_id:
        for unit_type in range(FIRST_ALLY_TYPE + len(scenario.ally_types)):
            kind = scenario.types.get(unit_type)
            if kind is None:
                response.units.add(unit_id=unit_type)
                continue
            suffix = "_RL" if unit_type in scenario.ally_types else ""
            speed = 16 * kind.speed  # a second of the speed "normal"
            response.units.add(unit_id=unit_type, name=kind.name + suffix, available=True, movement_speed=speed)
