"""The requests that the stand-in for StarCraft II answers, in this process: needs s2clientprotocol alone."""

from __future__ import annotations

import pytest
from sc2_standin import Knobs

pytest.importorskip("s2clientprotocol", reason="s2clientprotocol is not installed")

from s2clientprotocol import common_pb2, debug_pb2, raw_pb2
from s2clientprotocol import sc2api_pb2 as pb
from sc2_standin.engine import ATTACK, HEAL, MOVE, STOP, Engine
from sc2_standin.maps import map_file
from sc2_standin.requests import JOIN, create


@pytest.fixture
def ask():
    """``ask(step=RequestStep(count=1))`` -> the response of an engine in this process."""
    engine = Engine(Knobs(seed=100))
    return lambda **request: pb.Response.FromString(engine.answer(pb.Request(id=17, **request).SerializeToString()))


def begin(ask, name="3m"):
    ask(create_game=create(f"SMAC_Maps/{name}.SC2Map"))
    assert ask(join_game=JOIN).status == pb.in_game


def test_a_request_out_of_turn_is_an_error_and_changes_nothing(ask):
    in_game = ("step", "observation", "game_info", "action", "data", "debug", "restart_game", "leave_game")
    for what in ("join_game", *in_game):
        response = ask(**{what: getattr(pb.Request(), what)})
        assert response.error and what in response.error[0]
        assert (response.status, response.id) == (pb.launched, 17)
    assert not ask(ping=pb.RequestPing()).error
    ask(create_game=create())
    assert ask(step=pb.RequestStep(count=1)).error
    assert ask(query={}).error  # nobody asks it


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.RequestCreateGame(), "MissingMap"),
        (create("SMAC_Maps/4m.SC2Map"), "InvalidMapPath"),
        (create(data=map_file("8m")), "InvalidMapData"),
        (create(types=()), "MissingPlayerSetup"),
        (create(types=(pb.Participant, pb.Participant)), "InvalidPlayerSetup"),
    ],
)
def test_a_game_that_cannot_be_is_refused_by_the_names_of_the_protocol(ask, request_, error):
    response = ask(create_game=request_)
    assert response.create_game.error == pb.ResponseCreateGame.Error.Value(error)
    assert (response.status, list(response.error)) == (pb.launched, [])


def test_a_game_goes_through_the_states_of_the_protocol(ask):
    assert ask(create_game=create(data=map_file("3m"))).status == pb.init_game
    assert ask(join_game=JOIN).join_game.player_id == 1
    assert ask(step=pb.RequestStep(count=8)).step.simulation_loop == 8
    assert ask(restart_game=pb.RequestRestartGame()).status == pb.in_game
    assert ask(observation=pb.RequestObservation()).observation.observation.game_loop == 0
    assert ask(leave_game=pb.RequestLeaveGame()).status == pb.launched
    assert ask(quit=pb.RequestQuit()).status == pb.quit


def test_the_types_of_the_allies_are_the_last_of_all_types_without_a_gap(ask):
    for name, allies in (
        ("32x32_flat", "Baneling Colossus Hydralisk Marauder Marine Medivac Stalker Zealot Zergling"),
        ("MMM2", "Marauder Marine Medivac"),
    ):
        begin(ask, name)
        units = ask(data=pb.RequestData(unit_type_id=True)).data.units
        assert [unit.unit_id for unit in units] == list(range(1970 + len(allies.split())))
        assert [unit.name for unit in units[1970:]] == [f"{kind}_RL" for kind in allies.split()]
        ask(leave_game=pb.RequestLeaveGame())


def test_orders_are_answered_with_results_and_obeyed(ask):
    def look():
        return ask(observation=pb.RequestObservation()).observation.observation.raw_data.units

    begin(ask, "MMM")
    units = look()
    marine = next(unit for unit in units if unit.unit_type == 1971)
    medivac = next(unit for unit in units if unit.unit_type == 1972)
    enemy = next(unit for unit in units if unit.owner == 2)
    there = common_pb2.Point2D(x=marine.pos.x, y=marine.pos.y + 2)
    cases = [
        (dict(ability_id=ATTACK, unit_tags=[marine.tag], target_unit_tag=enemy.tag), 1),
        (dict(ability_id=HEAL, unit_tags=[medivac.tag], target_unit_tag=marine.tag), 1),
        (dict(ability_id=HEAL, unit_tags=[marine.tag], target_unit_tag=marine.tag), 36),  # cannot target that unit
        (dict(ability_id=ATTACK, unit_tags=[marine.tag], target_unit_tag=medivac.tag), 36),
        (dict(ability_id=ATTACK, unit_tags=[marine.tag]), 81),  # must target a unit
        (dict(ability_id=STOP, unit_tags=[enemy.tag]), 3),  # not one's own
        (dict(ability_id=9999, unit_tags=[marine.tag]), 2),  # not supported
        (dict(ability_id=MOVE, unit_tags=[marine.tag], target_world_space_pos=there), 1),
    ]
    action = pb.RequestAction()
    for command, _ in cases:
        action.actions.add().action_raw.unit_command.CopyFrom(raw_pb2.ActionRawUnitCommand(**command))
    assert list(ask(action=action).action.result) == [result for _, result in cases]
    kill = debug_pb2.DebugCommand(kill_unit=debug_pb2.DebugKillUnit(tag=[medivac.tag]))
    ask(debug=pb.RequestDebug(debug=[kill]))
    assert len(look()) == 20  # it takes effect with the next step
    ask(step=pb.RequestStep(count=12))
    after = {unit.tag: unit for unit in look()}
    assert medivac.tag not in after and len(after) == 19
    assert after[marine.tag].pos.y > marine.pos.y + 0.8
