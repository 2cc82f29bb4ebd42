"""SMAC without StarCraft: names, layouts and what is hidden, from lists of smacv2's names that are typed in here."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
import torch
from benchmark_scripts import ROOT

from globediff_torchrl import available_envs, make_env
from globediff_torchrl.envs import families
from globediff_torchrl.envs.hiding import resolve_hidden
from globediff_torchrl.envs.smac import install as smac_install
from globediff_torchrl.envs.smac.layouts import HIDDEN, hidden_by_default, observation_layout, state_layout
from globediff_torchrl.envs.smac.maps import (
    SMACV1_MAPS,
    SMACV2_MAPS,
    capabilities,
    check_options,
    is_generated,
    options,
    read_options,
    smac_map,
)
from globediff_torchrl.errors import UserError
from globediff_torchrl.policies.ego_view import ego_matrix
from globediff_torchrl.training.config import compose

MOVES = [f"move_action_{way}" for way in ("north", "south", "east", "west")]


def unit(side, k, features, bits):
    return [f"{side}_{name}_{k}" for name in features] + [f"{side}_unit_type_{k}_bit_{b}" for b in range(bits)]


# protoss, two against two, two unit types, own position: as smacv2 lists them
SEEN = ["distance", "relative_x", "relative_y", "health", "shield"]
OBSERVED = [
    *MOVES,
    *unit("enemy", 0, ["shootable", *SEEN], 2),
    *unit("enemy", 1, ["shootable", *SEEN], 2),
    *unit("ally", 1, ["visible", *SEEN], 2),
    *["own_health", "own_shield", "own_pos_x", "own_pos_y", "own_unit_type_bit_0", "own_unit_type_bit_1"],
]
STATE = [
    *[
        name
        for k in (0, 1)
        for name in unit("ally", k, ["health", "cooldown", "relative_x", "relative_y", "shield"], 2)
    ],
    *unit("enemy", 0, ["health", "relative_x", "relative_y", "shield"], 2),
    *unit("enemy", 1, ["health", "relative_x", "relative_y", "shield"], 2),
    *[f"ally_last_action_{k}_action_{a}" for k in (0, 1) for a in range(8)],
]
MARINES = [  # one of three, one unit type, no shields
    *MOVES,
    *[f"enemy_{name}_{k}" for k in range(3) for name in ("shootable", *SEEN[:4])],
    *[f"ally_{name}_{k}" for k in (1, 2) for name in ("visible", *SEEN[:4])],
    "own_health",
]


def test_every_number_of_an_observation_has_its_place():
    layout = observation_layout(OBSERVED)
    assert layout.size == len(OBSERVED) == 34
    assert layout.names == (
        "own.can_move",
        *(
            f"enemy_{k}.{name}"
            for k in (0, 1)
            for name in ("shootable", "distance", "offset", "health", "shield", "type")
        ),
        *(f"ally_1.{name}" for name in ("visible", "distance", "offset", "health", "shield", "type")),
        *(f"own.{name}" for name in ("health", "shield", "position", "type")),
    )
    assert layout.slices["enemy_1.offset"] == slice(OBSERVED.index("enemy_relative_x_1"), 16)
    assert layout.slices["own.position"] == slice(30, 32)
    assert {f.kind for f in layout.match("*.offset")} == {"offset"}
    assert {f.kind for f in layout.match(["*.health", "*.shield"])} == {"health"}
    assert {f.size for f in layout.match("*.type")} == {2}


def test_every_number_of_the_state_has_its_place():
    layout = state_layout(STATE)
    assert layout.size == len(STATE) == 42
    assert layout.slices["ally_1.position"] == slice(9, 11)
    assert layout.slices["enemy_1.type"] == slice(24, 26)
    assert layout.slices["ally_1.last_action"] == slice(34, 42)
    assert [f.owner for f in layout.match("*.health")] == [0, 1, None, None]
    assert {f.kind for f in layout.match("*.position")} == {"position"}
    tokens = layout.tokens()
    assert tokens.shape[0] == 4, "one row a unit"
    assert sorted(tokens[tokens >= 0].tolist()) == list(range(42))


def test_the_state_can_be_turned_to_each_agent():
    layout = state_layout(STATE)
    state = torch.randn(layout.size)
    for agent, view in enumerate(ego_matrix(layout, agents=2) @ state):
        own = state[layout.slices[f"ally_{agent}.position"]]
        torch.testing.assert_close(view[2:4], own)
        other = state[layout.slices[f"ally_{1 - agent}.position"]]
        start = layout.slices["enemy_0.health"].start + 16
        assert torch.isclose(view[:, None], (other - own)[None]).any(0).all()
        enemy = state[layout.slices["enemy_1.position"]]
        assert torch.isclose(view[start:, None], (enemy - own)[None]).any(0).all()


@pytest.mark.parametrize("names", [OBSERVED, MARINES], ids=["protoss", "marines"])
def test_hidden_by_default_are_the_enemies_health_shield_and_type_alone(names):
    layout = observation_layout(names)
    _, visible = resolve_hidden(hidden_by_default(layout), layout, n_agents=2)
    secret = ("enemy_health", "enemy_shield", "enemy_unit_type")
    assert [not name.startswith(secret) for name in names] == visible[0].tolist() == visible[1].tolist()
    assert visible[0].sum() == {34: 26, 30: 27}[len(names)]


def test_what_an_observation_does_not_have_is_not_hidden():
    assert hidden_by_default(observation_layout(OBSERVED)) == HIDDEN
    assert hidden_by_default(observation_layout(MARINES)) == ("enemy_*.health",)


def test_rare_options_have_names():
    names = [
        *MOVES,
        *[f"pathing_grid_{i}" for i in range(8)],
        *[f"terrain_height_{i}" for i in range(9)],
        *["ally_visible_1", "ally_attack_prob_1", "ally_health_level_1"],
        *[f"ally_last_action_1_action_{a}" for a in range(11)],
        *["own_health", "own_attack_prob", "own_health_level", "own_fov_x", "own_fov_y", "timestep"],
    ]
    layout = observation_layout(names)
    assert layout.size == len(names)
    sizes = {f.full_name: f.size for f in layout.features if f.size > 1}
    several = {"own.can_move": 4, "own.pathing": 8, "own.terrain": 9, "ally_1.last_action": 11, "own.fov": 2}
    assert sizes == several and layout.names[-1] == "battle.time"


@pytest.mark.parametrize("name", ["enemy_mood_0", "weather", "own_"])
def test_a_name_that_smacv2_1_0_does_not_have_is_refused(name):
    with pytest.raises(UserError, match=r"expected names of smacv2 1\.0\.0"):
        observation_layout([*MOVES, name])


def test_names_of_environments():
    names = available_envs()
    assert {f"smac/{name}" for name in SMACV1_MAPS} | {f"smacv2/{name}" for name in SMACV2_MAPS} <= set(names)
    assert len(SMACV1_MAPS) == 23 and len(SMACV2_MAPS) == 15
    assert is_generated("terran_7_vs_12") and not is_generated("terran_0_vs_3") and not is_generated("random_5_vs_5")
    with pytest.raises(UserError, match=r"Unknown environment 'smac/4m'.*did you mean"):
        make_env("smac/4m")
    with pytest.raises(UserError, match="Unknown environment 'smacv2/zerg_5_vs'"):
        make_env("smacv2/zerg_5_vs")


def test_configurations():
    zerg = smac_map("zerg_5_vs_6")
    assert (zerg.map_name, zerg.file, zerg.agents, zerg.enemies, zerg.limit) == ("10gen_zerg", "32x32_flat", 5, 6, 200)
    official, paper = options(zerg, "official"), options(zerg, "paper")
    assert official["use_unit_ranges"] and official["obs_own_pos"] and official["min_attack_range"] == 2
    assert not paper["use_unit_ranges"] and not paper["obs_own_pos"]
    teams = [config["capability_config"].pop("team_gen") for config in (official, paper)]
    assert official["capability_config"] == paper["capability_config"]
    assert teams[0].pop("exception_unit_types") == ["baneling"], "which the reference does not have"
    assert teams[0] == teams[1]
    assert "exception_unit_types" in capabilities(zerg, "official")["team_gen"], "what was taken out was a copy"
    assert options(smac_map("MMM2"), "official") == options(smac_map("MMM2"), "paper") == {}
    with pytest.raises(UserError, match="Unknown configuration"):
        options(zerg, "ours")


@pytest.mark.parametrize(("given", "taken"), [("7", "7"), (8, "8"), ("A", "A")])
def test_a_difficulty_without_its_quotes_is_the_one_that_smacv2_knows(given, taken):
    """A shell takes the quotes of difficulty="8" away."""
    assert read_options({"difficulty": given, "step_mul": 4}) == {"difficulty": taken, "step_mul": 4}


@pytest.mark.parametrize("given", [11, True, 7.0, "hard", None])
def test_a_difficulty_that_smacv2_does_not_know_is_refused_with_those_it_knows(given):
    with pytest.raises(UserError, match=rf"difficulty '{given}'.*Known: 1, 2, .*9, A"):
        read_options({"difficulty": given})


@pytest.mark.parametrize("given", [4.1, 4])
def test_a_game_version_that_has_become_a_number_is_refused_with_the_form_that_stays_a_string(given):
    with pytest.raises(UserError, match=rf"game_version.*got the number {given}.*game_version=4\.10\.0"):
        read_options({"game_version": given})
    for kept in ("4.10", None):
        assert read_options({"game_version": kept}) == {"game_version": kept}


def test_the_printed_forms_of_the_command_line_stay_what_they_are():
    printed = re.findall(r"`\+(env\.kwargs\.\S+)`", (ROOT / "docs" / "smac.md").read_text())
    read = read_options(dict(compose("smac", [f"+{entry}" for entry in printed]).env.kwargs))
    assert read == {"difficulty": "8", "conic_fov": True, "game_version": "4.10.0"}
    assert compose("smac", ['+env.kwargs.game_version="4.10"']).env.kwargs.game_version == "4.10"


def test_arguments_are_checked_by_name():
    known = {"self", "map_name", "seed", "step_mul", "difficulty"}
    check_options({"step_mul": 4}, known)
    with pytest.raises(UserError, match="did you mean 'step_mul'"):
        check_options({"stepmul": 4}, known)
    with pytest.raises(UserError, match="use make_env's seed="):
        check_options({"seed": 4}, known)


def test_one_message_says_all_that_is_missing(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ("smacv2", "pysc2") else find(name, *rest)
    )
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        make_env("smac/3m", num_envs=1)
    for part in ("package pysc2", "package smacv2", "StarCraft II", "docs/smac.md", "globediff-doctor", "smax/3m"):
        assert part in str(caught.value), part


def test_a_missing_map_is_named(monkeypatch, tmp_path):
    engine = tmp_path / "Versions" / "Base75689" / "SC2_x64"
    engine.parent.mkdir(parents=True)
    engine.touch()
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    assert any("MMM2.SC2Map" in line for line in smac_install.missing("MMM2"))
    assert not any("StarCraft" in line for line in smac_install.missing())


def test_nothing_of_starcraft_is_imported_before_it_is_needed():
    code = "import sys, globediff_torchrl; print({'smacv2', 'pysc2', 's2clientprotocol'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


class Asked(Exception):
    """Stops where a StarCraft II would be launched."""


@pytest.mark.parametrize(("given", "expected"), [({}, (1, 500)), ({"num_envs": 3, "restart_every": None}, (3, None))])
def test_a_script_that_says_nothing_gets_one_engine_which_is_replaced_as_it_leaks(monkeypatch, given, expected):
    asked = []

    def parallel_env(make, num_envs, seeds):
        asked.append((num_envs, make.args[1]["restart_every"]))
        raise Asked

    monkeypatch.setattr(families, "SmacEnv", lambda *_, **__: None)
    monkeypatch.setattr(families, "parallel_env", parallel_env)
    with pytest.raises(Asked):
        make_env("smac/3m", **given)
    assert asked == [expected]
    assert compose("smac").env.restart_every == families.RESTART_EVERY  # the same on the command line
