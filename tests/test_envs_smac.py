"""SMAC through the real smacv2 and pysc2 on a stand-in for the engine (tests/sc2_standin): no StarCraft results."""

from __future__ import annotations

import pytest
import torch
from smac_battles import SIZES, family, played
from torchrl.envs.utils import check_env_specs

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs import describe_hidden
from globediff_torchrl.envs.smac import SmacEnv
from globediff_torchrl.envs.smac.maps import DIFFICULTIES, SMACV1_MAPS, smac_map
from globediff_torchrl.errors import UserError

pytest.importorskip("smacv2", reason="smacv2 is not installed, see docs/smac.md")
pytest.importorskip("pysc2", reason="pysc2 is not installed, see docs/smac.md")
pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("name", SIZES)
def test_a_map_is_played_and_only_what_is_hidden_differs(name, battle):
    """Specs hold, sizes are the public ones, and with the same seed all but the hidden numbers is bit-identical."""
    agents, enemies, actions, observed, size, hidden = SIZES[name]
    masked, plain = (battle(family(name), sight_range=60, **kwargs) for kwargs in ({}, {"hide": None}))
    check_env_specs(masked, seed=100)
    one, two = played(masked, 8), played(plain, 8)

    layout = masked.task.observation_layout
    assert one[keys.OBSERVATION].shape == (1, 8, agents, observed) and one["state"].shape == (1, 8, size)
    assert one[keys.ACTION_MASK].shape == (1, 8, agents, actions)
    assert one["next", "agents", "reward"].shape == (1, 8, agents, 1)
    assert sum(entity.startswith("enemy") for entity in masked.task.state_layout.entities) == enemies
    secret = layout.select([name.removeprefix("agents.") for name in masked.task.hidden])
    assert len(secret) == hidden and not plain.task.hidden
    kept = torch.ones(observed, dtype=torch.bool)
    kept[secret] = False
    for ours, theirs in ((one, two), (one["next"], two["next"])):
        assert (ours[keys.OBSERVATION][..., secret] == 0).all()
        assert torch.equal(ours[keys.OBSERVATION][..., kept], theirs[keys.OBSERVATION][..., kept])
        for key in ("state", keys.ACTION_MASK, keys.ACTIVE_MASK, "done", "success"):
            assert torch.equal(ours[key], theirs[key]), key
    assert torch.equal(one["next", "agents", "reward"], two["next", "agents", "reward"])
    assert (two[keys.OBSERVATION][:, 0][..., layout.select("enemy_*.health")] > 0).all(), "everything is in sight"
    assert not one["next", "crashed"].any() and not two["next", "crashed"].any()


def test_all_of_smacv2s_maps_are_listed():
    from smacv2.env.starcraft2.maps.smac_maps import get_smac_map_registry

    theirs = get_smac_map_registry()
    ours = {smac_map(n).map_name: smac_map(n) for n in [*SMACV1_MAPS, "zerg_10_vs_10", "protoss_10_vs_10"]}
    ours["10gen_terran"] = smac_map("terran_10_vs_10")
    assert set(ours) == set(theirs)
    for name, game in ours.items():
        assert (game.agents, game.enemies) == (theirs[name]["n_agents"], theirs[name]["n_enemies"])
        assert (game.limit, game.file) == (theirs[name]["limit"], theirs[name]["map_name"])


def test_layouts_have_the_sizes_of_all_maps_and_options():
    """smacv2's names against its sizes; nothing is launched."""
    several = {"obs_last_action": True, "obs_pathing_grid": True, "obs_terrain_height": True, "conic_fov": True}
    clocks = {"obs_timestep_number": True, "state_timestep_number": True}
    chances = {"dist_type": "per_agent_uniform", "lower_bound": [0.5], "upper_bound": [0.9], "observe": True}
    for name in SMACV1_MAPS:
        SmacEnv(name)
    for name in ("zerg_3_vs_4", "terran_7_vs_4", "protoss_20_vs_23"):
        env = SmacEnv(name, **several, **clocks, capability_config={"attack": chances, "health": chances})
        assert env.observation_layout.size == env.observation_spec[keys.OBSERVATION].shape[-1] == env.get_obs_size()
    paper = SmacEnv("zerg_5_vs_5", configuration="paper")
    assert paper.observation_layout.size == 80 and paper.says[0] == "configuration paper"
    assert SmacEnv("3m", configuration="paper").says[0] == "behaviour mended", "it has one configuration"


def test_difficulties_are_smacv2s_own_also_without_their_quotes():
    from smacv2.env.starcraft2.starcraft2 import difficulties

    assert tuple(difficulties) == DIFFICULTIES
    assert SmacEnv("3m", difficulty=8)._env.difficulty == "8"


def test_several_battles_at_once(battle):
    env = battle("smacv2/zerg_3_vs_2", num_envs=2)
    torch.manual_seed(0)
    steps = env.rollout(6, break_when_any_done=False)
    assert steps[keys.OBSERVATION].shape == (2, 6, 3, env.task.observation_layout.size)
    chosen = steps[keys.ACTION_MASK].gather(-1, steps[keys.ACTION].unsqueeze(-1))
    assert chosen.all(), "random actions are legal ones"
    assert not torch.equal(steps["state"][0], steps["state"][1]), "each has a seed of its own"
    assert "behaviour mended" in env.task.description and "not fixed by the seed" in env.task.description
    assert "agents.enemy_*.health" in describe_hidden(env.task)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"behaviour": "fixed"}, "Unknown behaviour"),
        ({"configuration": "ours"}, "Unknown configuration"),
        ({"time_limit": "done"}, "Unknown time_limit"),
        ({"sight_range": -1}, "above 0 in map units"),
        ({"dificulty": "7"}, "Unknown argument of smacv2's StarCraft2Env 'dificulty': did you mean 'difficulty'"),
        ({"difficulty": 11}, "Unknown difficulty '11'.*Known: 1, 2"),
        ({"game_version": 4.1}, "got the number 4.1"),
        ({"continuing_episode": True}, "use time_limit=truncated"),
        ({"hide": ["enemy.health"]}, "did you mean"),
    ],
)
def test_mistakes_are_named(arguments, match):
    with pytest.raises(UserError, match=match):
        make_env("smac/3m", num_envs=1, **arguments)
