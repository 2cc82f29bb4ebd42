"""Requests in, responses out: the states of a game and what is legal in each, as the protocol has it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import PurePosixPath

from s2clientprotocol import error_pb2, sc2api_pb2

from . import messages
from .combat import ALLY, Order, Unit
from .knobs import Knobs
from .maps import MAPS, map_name
from .scenario import Scenario

STOP, MOVE, ATTACK, HEAL = 4, 16, 23, 386  # ability ids
PLAYING, LEAVING = ("in_game",), ("in_game", "ended")
LEGAL = {  # request -> the states in which the game answers it
    "ping": (),  # all
    "quit": (),
    "create_game": ("launched", "ended", "in_game"),
    "join_game": ("init_game",),
    "restart_game": LEAVING,
    "leave_game": LEAVING,
    "observation": LEAVING,
    "save_replay": LEAVING,
    "game_info": PLAYING,
    "data": PLAYING,
    "step": PLAYING,
    "action": PLAYING,
    "debug": PLAYING,
}


class Refused(Exception):
    """The request's own error enumeration: its name and the details."""


class Engine:
    """One game at a time. ``answer`` is the whole interface; ``quitting`` is set once a client asked to quit."""

    def __init__(self, knobs: Knobs):
        self.knobs, self.status, self.quitting = knobs, "launched", False
        self.created: sc2api_pb2.RequestCreateGame | None = None
        self.name, self.scenario, self.race = "", None, 0

    def answer(self, data: bytes, before_step: Callable[[], None] = lambda: None) -> bytes:
        """The response to a request, both serialised; ``before_step`` may end the process, for tests of a crash."""
        request, response = sc2api_pb2.Request.FromString(data), sc2api_pb2.Response()
        what = request.WhichOneof("request")
        states = LEGAL.get(what)
        if states is None:
            response.error.append(f"{what or 'an empty request'}: the stand-in does not have it")
        elif states and self.status not in states:
            response.error.append(f"{what} is not legal in the state {self.status}; legal in: {', '.join(states)}")
        else:
            if what == "step":
                before_step()
            self._fill(what, getattr(request, what), getattr(response, what))
        if request.HasField("id"):
            response.id = request.id
        response.status = sc2api_pb2.Status.Value(self.status)
        return response.SerializeToString()

    def _fill(self, what: str, request, response) -> None:
        response.SetInParent()  # an answer without fields is an answer
        try:
            getattr(self, f"_{what}")(request, response)
        except Refused as refusal:
            error, details = refusal.args
            response.error, response.error_details = type(response).Error.Value(error), details

    def _ping(self, request, response) -> None:
        response.game_version, response.data_version = "4.10.0", ""
        response.base_build = response.data_build = 75689

    def _quit(self, request, response) -> None:
        self.status, self.quitting = "quit", True

    def _create_game(self, request, response) -> None:
        if not request.HasField("local_map"):
            raise Refused("MissingMap", "the stand-in plays local maps")
        name = PurePosixPath(request.local_map.map_path).stem
        if name not in MAPS:
            raise Refused("InvalidMapPath", f"no such map: {request.local_map.map_path}")
        if request.local_map.map_data and map_name(request.local_map.map_data) != name:
            raise Refused("InvalidMapData", f"the data is not what `install` wrote for {name}")
        types = sorted(setup.type for setup in request.player_setup)
        if not types:
            raise Refused("MissingPlayerSetup", "expected a participant and a computer")
        if types != sorted([sc2api_pb2.Participant, sc2api_pb2.Computer]):
            raise Refused("InvalidPlayerSetup", f"expected a participant and a computer, got types {types}")
        self.created, self.name, self.status = request, name, "init_game"

    def _join_game(self, request, response) -> None:
        if request.WhichOneof("participation") != "race":
            raise Refused("MissingParticipation", "expected a race")
        if not request.options.raw:
            raise Refused("MissingOptions", "the stand-in has the raw interface alone")
        self._begin()
        self.race, self.status = request.race, "in_game"
        response.player_id = ALLY

    def _begin(self) -> None:
        if self.created.HasField("random_seed"):
            seed = self.created.random_seed
        elif self.knobs.seed >= 0:
            seed = self.knobs.seed
        else:
            seed = random.SystemRandom().getrandbits(32)
        self.scenario = Scenario(self.name, seed, self.knobs.damage, self.knobs.respawn_delay)

    def _restart_game(self, request, response) -> None:
        self._begin()
        self.status = "in_game"

    def _leave_game(self, request, response) -> None:
        self.scenario, self.status = None, "launched"

    def _game_info(self, request, response) -> None:
        messages.game_info(response, self.name, self.created, self.race)

    def _observation(self, request, response) -> None:
        messages.observation(response, self.scenario)

    def _data(self, request, response) -> None:
        messages.data(response, request, self.scenario)

    def _save_replay(self, request, response) -> None:
        response.data = b"sc2_standin replay, no StarCraft replay: " + self.name.encode()

    def _step(self, request, response) -> None:
        for _ in range(request.count if request.HasField("count") else 1):
            self.scenario.advance()
        response.simulation_loop = self.scenario.battle.loop

    def _debug(self, request, response) -> None:
        """Commands wait for the next loop. Kinds of command that change no unit (draw, for one) are ignored."""
        for command in request.debug:
            if command.HasField("kill_unit"):
                self.scenario.kill.extend(command.kill_unit.tag)
            elif command.HasField("create_unit"):
                unit = command.create_unit
                if unit.unit_type in self.scenario.types:
                    new = (unit.unit_type, unit.owner, unit.pos.x, unit.pos.y)
                    self.scenario.create.extend([new] * unit.quantity)

    def _action(self, request, response) -> None:
        for action in request.actions:
            result = "Success"
            if action.action_raw.HasField("unit_command"):
                result = self._command(action.action_raw.unit_command)
            response.result.append(error_pb2.ActionResult.Value(result))

    def _command(self, command) -> str:
        """Give an order to the client's own units; the last one that failed names the result."""
        units = self.scenario.battle.units
        target = units.get(command.target_unit_tag) if command.HasField("target_unit_tag") else None
        result = "Success"
        for tag in command.unit_tags:
            unit = units.get(tag)
            if unit is None or unit.owner != ALLY:
                result = "Error"
                continue
            why, order = self._order(unit, target, command)
            if why == "Success":
                unit.order = order
            else:
                result = why
        return result

    @staticmethod
    def _order(unit: Unit, target: Unit | None, command) -> tuple[str, Order | None]:
        if command.ability_id == STOP:
            return "Success", None
        if command.ability_id == MOVE and command.HasField("target_world_space_pos"):
            point = command.target_world_space_pos
            return "Success", Order("move", (point.x, point.y))
        if command.ability_id not in (ATTACK, HEAL):
            return "NotSupported", None
        if target is None:
            return "MustTargetUnit", None
        if command.ability_id == ATTACK and target.owner != unit.owner and unit.can_attack(target):
            return "Success", Order("attack", target=target.tag)
        if command.ability_id == HEAL and target is not unit and unit.can_heal(target):
            return "Success", Order("heal", target=target.tag)
        return "CantTargetThatUnit", None
