"""The stand-in for StarCraft II as a process of its own, under pysc2 and smacv2 unmodified; no StarCraft result here.

Skipped where they are not installed.
"""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from process_watch import wait_until
from sc2_standin import Knobs, install, read_log

pytest.importorskip("s2clientprotocol", reason="s2clientprotocol is not installed")

from s2clientprotocol import debug_pb2
from s2clientprotocol import sc2api_pb2 as pb
from sc2_standin.maps import MAPS, map_file
from sc2_standin.requests import JOIN, create


@pytest.fixture
def game(monkeypatch, tmp_path):
    """``game(**knobs)`` -> the log; from then on pysc2 finds the stand-in. At the end no engine may be left."""
    flags = pytest.importorskip("absl.flags", reason="pysc2 is not installed")
    pytest.importorskip("pysc2.run_configs", reason="pysc2 is not installed")
    flags.FLAGS(["pytest"])
    log = tmp_path / "log"

    def prepare(**knobs):
        monkeypatch.setenv("SC2PATH", str(install(tmp_path)))
        Knobs(log=str(log), **knobs).set(monkeypatch)
        return log

    yield prepare
    assert len(read_log(log).started) == len(read_log(log).exits) > 0


def start():
    from pysc2 import run_configs

    return run_configs.get().start(want_rgb=False)


def enter(controller):
    controller.create_game(create(data=map_file("3m")))
    controller.join_game(JOIN)


def test_pysc2_starts_it_plays_and_ends_it(game):
    log = game()
    with start() as controller:
        assert controller.ping().base_build == 75689
        enter(controller)
        assert controller.game_info().start_raw.map_size.x == 32
        controller.step(8)
        observation = controller.observe().observation
        assert observation.game_loop == 8
        assert sorted(unit.owner for unit in observation.raw_data.units) == [1, 1, 1, 2, 2, 2]
        assert controller.data().units[1970] == "Marine_RL"
        controller.debug(debug_pb2.DebugCommand(draw=debug_pb2.DebugDraw()))
        assert controller.save_replay()
    assert [reason for _, reason in read_log(log).exits] in (["quit"], ["sigterm"])


def test_a_second_connection_and_a_wrong_path_are_served_and_sigterm_ends_it(game):
    import websocket

    log = game()
    process = start()
    url = f"ws://127.0.0.1:{process.port}/"
    process.controller.close()
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        websocket.create_connection(url + "elsewhere", timeout=20)
    client = websocket.create_connection(url + "sc2api", timeout=20)
    request = pb.Request(id=5, ping=pb.RequestPing(), step=pb.RequestStep()).SerializeToString()
    client.ping()
    client.send(request)
    answer = client.recv()
    assert pb.Response.FromString(answer).error  # the last of the two is a step, which needs a game
    os.kill(process.pid, signal.SIGTERM)
    process.close()
    assert [reason for _, reason in read_log(log).exits] == ["sigterm"]


def test_the_faults_of_a_run_happen_when_asked_and_to_as_many_engines_as_asked(game):
    from pysc2.lib import protocol, remote_controller

    log = game(crash_at=2, faulty_starts=1)
    for crashes in (True, False):
        with start() as controller:
            enter(controller)
            controller.step(8)
            if crashes:
                with pytest.raises(protocol.ConnectionError):
                    controller.step(8)
            else:
                controller.step(8)
    game(freeze_at=1)
    with start() as controller:
        enter(controller)
        controller._client._sock.settimeout(0.3)
        with pytest.raises(protocol.ConnectionError, match="timed out"):
            controller.step(8)
    game(refuse=1)
    with pytest.raises(remote_controller.ConnectError):
        start()
    reasons = [reason for _, reason in read_log(log).exits]
    assert reasons[0] == "crash" and "crash" not in reasons[1:]
    assert reasons[2:] == ["sigterm", "refused"]


def test_an_engine_whose_parent_is_killed_ends_by_itself(game, tmp_path):
    log = game()
    binary = tmp_path / "StarCraftII" / "Versions" / "Base75689" / "SC2_x64"
    shell = subprocess.Popen(["sh", "-c", f"{binary} -listen 127.0.0.1 -port 0 & wait"])
    assert wait_until(lambda: read_log(log).started, 20)
    shell.kill()
    shell.wait()
    assert wait_until(lambda: read_log(log).exits, 20)
    assert read_log(log).exits[0][1] == "orphan"


def nearest_or_first(env):
    """For each agent the last action that it may take, which is an attack where there is one."""
    return [max(i for i, allowed in enumerate(mask) if allowed) for mask in env.get_avail_actions()]


def rollout(env) -> dict:
    done = False
    while not done:
        _, done, info = env.step(nearest_or_first(env))
        assert len(env.get_obs()) == len(env.get_avail_actions())
    return info


def test_unmodified_smacv2_plays_generated_battles_one_after_another(game):
    wrapper = pytest.importorskip("smacv2.env.starcraft2.wrapper", reason="smacv2 is not installed")
    log = game(damage=2.0)  # the shorter the battles, the shorter the test
    team = {
        "dist_type": "weighted_teams",
        "unit_types": ["zergling", "hydralisk", "baneling"],
        "exception_unit_types": ["baneling"],
        "weights": [0.45, 0.45, 0.1],
        "observe": True,
    }
    positions = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    config = {"n_units": 5, "n_enemies": 5, "team_gen": team, "start_positions": positions}
    env = wrapper.StarCraftCapabilityEnvWrapper(map_name="10gen_zerg", seed=100, capability_config=config)
    try:
        for _ in range(2):
            env.reset()
            names = {unit.unit_type - 1970 for unit in env.env.agents.values()}
            assert names <= {0, 2, 8}  # baneling, hydralisk, zergling
            assert {unit.unit_type for unit in env.env.enemies.values()} <= {9, 105, 107}
            assert rollout(env)["dead_allies"] == 5
    finally:
        env.close()
    assert len(read_log(log).started) == 1


def test_unmodified_smacv2_plays_one_battle_of_3m_and_never_sees_the_empty_map_that_its_reset_waits_for(game):
    starcraft2 = pytest.importorskip("smacv2.env.starcraft2.starcraft2", reason="smacv2 is not installed")
    game(damage=3.0)
    env = starcraft2.StarCraft2Env(map_name="3m", seed=100)
    try:
        env.reset()
        rollout(env)
        seen, observe = [], env._controller.observe

        def counting():
            seen.append(observe())
            if len(seen) == 20:
                raise InterruptedError("it would wait for ever")
            return seen[-1]

        env._controller.observe = counting
        with pytest.raises(InterruptedError):
            env.reset()
        assert {len(observation.observation.raw_data.units) for observation in seen} == {6}
    finally:
        env.close()


def test_teams_and_types_are_those_that_smacv2_expects_of_its_maps():
    registry = pytest.importorskip("smacv2.env.starcraft2.maps.smac_maps", reason="smacv2 is not installed")
    expected = registry.get_smac_map_registry()
    for name, params in expected.items():
        teams = MAPS[params["map_name"]]
        sizes = [sum(count for count, _, _ in groups) for groups in (teams.allies, teams.enemies)]
        assert sizes == ([0, 0] if name.startswith("10gen_") else [params["n_agents"], params["n_enemies"]]), name
    assert {params["map_name"] for params in expected.values()} == set(MAPS)
