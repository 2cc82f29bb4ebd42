"""SMAX as an environment of ours: its time limits, resets, hidden features and facts."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from smax_battles import B, half_attack, need_jaxmarl, played, simulator_values
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs import describe_hidden, load_simulator_state, simulator_state
from globediff_torchrl.envs.smax import STOP
from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import MLPStateModel

need_jaxmarl()
pytestmark = pytest.mark.usefixtures("jaxmarl_in_silence")


@pytest.fixture(scope="module")
def marines(jaxmarl_in_silence):
    """One environment for most tests: each new one would be traced anew."""
    return make_env("smax/3m", num_envs=B, seed=0, state_target="relative")


def test_the_specs_hold(marines):
    check_env_specs(marines)


def test_one_compilation_serves_all_steps_and_all_resets(marines):
    played(marines, 60)
    battles = marines.base_env.battles
    assert (battles.step._cache_size(), battles.reset._cache_size()) == (1, 1)


@pytest.mark.parametrize(("name", "num_envs"), [("3m", B), ("smacv2_5_units", 4)])
def test_what_is_hidden_is_zero_and_the_rest_is_untouched(name, num_envs):
    """Where the types are fixed, and where they are drawn for each battle; jax compiles neither anew."""
    options = {"num_envs": num_envs, "seed": 0, "state_target": "relative"}
    env, plain = make_env(f"smax/{name}", **options), make_env(f"smax/{name}", **options, hide=None)
    masked, seen = played(env, 30), played(plain, 30)
    types, _, _ = simulator_values(plain)
    assert (types != types[0]).any() == (name != "3m")
    layout = env.task.observation_layout
    columns = layout.select(["enemy_*.health", "enemy_*.type"])
    kept = torch.ones(layout.size, dtype=torch.bool)
    kept[columns] = False
    for one, other in ((masked, seen), (masked["next"], seen["next"])):
        assert (one[keys.OBSERVATION][..., columns] == 0).all()
        assert (other[keys.OBSERVATION][..., layout.select("enemy_*.health")] != 0).any()
        assert (other[keys.OBSERVATION][..., layout.select("enemy_*.type")] != 0).any()
        assert torch.equal(one[keys.OBSERVATION][..., kept], other[keys.OBSERVATION][..., kept])
    built_of_it = {"observation", "aux_observation"}
    same = [key for key in seen.keys(True, True) if not built_of_it & {*(key if isinstance(key, tuple) else (key,))}]
    assert {keys.STATE, keys.TARGET_STATE, keys.ACTION_MASK, ("next", *keys.REWARD), ("next", "success")} <= set(same)
    for key in same:
        assert torch.equal(masked[key], seen[key]), key
    assert "agents.enemy_*.health, agents.enemy_*.type" in describe_hidden(env.task)


@pytest.fixture(scope="module")
def harmless(jaxmarl_in_silence):
    """The enemy does not shoot."""
    return make_env("smax/3m", num_envs=B, seed=0, state_target="relative", enemy_shoots=False)


def test_a_battle_is_won_exactly_when_an_ally_lives_and_no_enemy_does(marines, harmless):
    lost, won = played(marines, 130), played(harmless, 130, policy=half_attack)
    rollout = torch.cat([lost, won])
    assert (lost["next", "terminated"] & ~lost["next", "success"]).any() and won["next", "success"].any()
    assert won["next", "truncated"].any()
    layout, state = marines.task.state_layout, rollout["next", "state"]
    allies = state[..., layout.select("ally_*.alive")].bool().any(-1)
    enemies = state[..., layout.select("enemy_*.alive")].bool().any(-1)
    assert torch.equal(rollout["next", "success"][..., 0], allies & ~enemies)
    assert torch.equal(rollout["next", "terminated"][..., 0], ~(allies & enemies))


def test_the_limit_is_truncated_in_step_101(harmless):
    """A team that stands still far from the enemy: only the clock ends its battle."""
    env = harmless
    env.set_seed(1)
    td, stop = env.reset(), torch.full((B, 3), 4)
    for step in range(1, 102):
        td, after = env.step_and_maybe_reset(td.set(keys.ACTION, stop))
        assert not td["next", "terminated"].any()
        assert (td["next", "truncated"] == (step == 101)).all() and (td["next", "done"] == (step == 101)).all()
        assert (td["next", "step_count"] == step).all()
        td = after
    assert (td["step_count"] == 0).all() and (td["time"] == 0).all()


def test_a_partial_reset_leaves_the_other_battles_alone(marines):
    played(marines, 10)
    before = simulator_state(marines)
    chosen = torch.zeros(B, 1, dtype=torch.bool)
    chosen[2] = chosen[5] = True
    marines.base_env.reset(TensorDict({"_reset": chosen}, [B]))
    after = simulator_state(marines)
    others = ~chosen[:, 0]
    for name in before:
        if name.startswith("simulator"):
            assert torch.equal(before[name][others], after[name][others]), name
    moved = [name for name in before if name.startswith("simulator") and not torch.equal(before[name], after[name])]
    assert len(moved) > 2


def test_resets_of_more_battles_than_are_reset_at_once(monkeypatch, jaxmarl_in_silence):
    """Seven battles in chunks of three: all of them begin, and five of them once more, as in one chunk."""
    from globediff_torchrl.envs.smax import battle

    def begun(chunk):
        monkeypatch.setattr(battle, "CHUNK", chunk)
        env = make_env("smax/3m", num_envs=7, seed=5, state_target="relative")
        assert env.base_env.battles.chunk == chunk
        first = env.reset()
        moved = env.step(first.clone().set(keys.ACTION, torch.full((7, 3), 1)))["next"]
        chosen = torch.ones(7, 1, dtype=torch.bool)
        chosen[1] = chosen[4] = False
        return first["state"], env.reset(moved.exclude(keys.REWARD).set("_reset", chosen))["state"]

    monkeypatch.setattr(battle, "make_battles", battle.Battles)  # none of those that are kept, nor to be kept
    (first, second), (one_first, one_second) = begun(3), begun(7)
    assert torch.equal(first, one_first) and torch.equal(second, one_second)
    assert len(first.unique(dim=0)) == len(second.unique(dim=0)) == 7
    assert not (first == second).all(-1).any(), "each has begun anew or moved on"


def test_the_last_state_is_that_of_the_old_battle_and_the_next_one_begins_anew(marines):
    """Under "next" stands how the battle ended; the root of the following step is the new one at full health."""
    rollout = played(marines, 120)
    done = rollout["next", "done"][:, :-1, 0]
    assert done.any()
    layout = marines.task.state_layout
    alive, health = layout.select("*.alive"), layout.select("*.health")
    last, first = rollout["next", "state"][:, :-1][done], rollout["state"][:, 1:][done]
    ended = rollout["next", "terminated"][:, :-1][done][:, 0]
    assert (last[ended][:, alive].sum(-1) <= 3).all()
    assert (first[:, alive] == 1).all() and (first[:, health] == 1).all()
    assert rollout[keys.ACTIVE_MASK][:, 1:][done].all()
    assert (rollout[keys.LAST_ACTION][:, 1:][done] == 0).all()


def test_the_dead_can_only_stop(marines):
    rollout = played(marines, 120)
    alive = rollout[keys.ACTIVE_MASK].squeeze(-1)
    assert not alive.all() and alive.any()
    only_stop = torch.arange(8) == 4
    assert (rollout[keys.ACTION_MASK][~alive] == only_stop).all()
    assert (rollout[keys.ACTION_MASK][alive][:, :5]).all()
    assert (rollout[keys.ACTION][~alive] == 4).all()
    chosen = rollout[keys.ACTION_MASK].gather(-1, rollout[keys.ACTION].unsqueeze(-1))
    assert chosen.all(), "random actions are legal ones"


def test_a_seed_is_a_battle(marines):
    first, again, other = played(marines, 25), played(marines, 25), played(marines, 25, seed=1)
    assert torch.equal(first["next", "state"], again["next", "state"])
    assert not torch.equal(first["state"], other["state"])


def test_the_first_battles_of_a_seed_are_the_same_whatever_their_number(marines):
    """Only their keys are compared, of which all else is a function: other numbers of battles would be compiled."""
    few = make_env("smax/3m", num_envs=3, state_target="relative")
    for env in (marines, few):
        env.set_seed(7)
    assert len(marines.base_env._keys.tolist()) == B and len(set(map(tuple, marines.base_env._keys.tolist()))) == B
    assert marines.base_env._keys.tolist()[:3] == few.base_env._keys.tolist()


def test_tensors_do_not_change_afterwards(marines):
    marines.set_seed(0)
    td = marines.reset()
    td, after = marines.step_and_maybe_reset(marines.rand_action(td))
    kept = td.clone()
    for _ in range(40):
        _, after = marines.step_and_maybe_reset(marines.rand_action(after))
    for key in kept.keys(True, True):
        assert torch.equal(td[key], kept[key]), key


def test_the_relative_target_is_what_the_simulator_holds():
    env = make_env("smax/smacv2_5_units", num_envs=4, seed=3, state_target="relative", hide=None, aux=None)
    torch.manual_seed(0)
    td = env.reset()
    layout = env.task.target_layout
    assert layout.size == 5 * 8
    some_died = False
    for _ in range(60):
        td = env.step(env.rand_action(td))["next"]
        types, health, alive = simulator_values(env)
        target = td[keys.TARGET_STATE]
        for k in range(5):
            lives = alive[:, 5 + k]
            expected = torch.cat(
                [health[:, 5 + k, None], torch.nn.functional.one_hot(types[:, 5 + k], 6), torch.ones(4, 1)], -1
            )
            where = torch.cat([layout.select(f"enemy_{k}.{name}") for name in ("health", "type", "alive")])
            for agent in range(5):
                torch.testing.assert_close(target[:, agent][:, where], expected * lives[:, None])
        some_died |= not alive[:, 5:].all()
    assert some_died
    tokens = env.task.state_layout.tokens()
    assert tokens.shape == (10, 10) and (tokens >= 0).all(), "one row a unit"


@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_with_a_joint_x_one_inference_serves_the_team_as_all_agents_have_one_target(target):
    env = make_env("smax/3m", num_envs=B, seed=0, state_target=target, aux="joint")
    assert MLPStateModel.from_env(env).infer_per == "team"
    if target == "relative":
        targets = env.rollout(20)[keys.TARGET_STATE]
        assert torch.equal(targets, targets[..., :1, :].expand_as(targets)) and targets.std() > 0


def test_independent_types_are_not_mirrored():
    """In jaxmarl's battles enemy k has ally k's type: what an agent sees of its own side would tell the other's."""
    for kind, mirrored in (("mirrored", True), ("independent", False)):
        env = make_env("smax/smacv2_5_units", num_envs=4, seed=3, aux=None, hide=None, enemy_types=kind)
        env.reset()
        types, _, _ = simulator_values(env)
        assert torch.equal(types[:, :5], types[:, 5:]) is mirrored


def test_a_saved_battle_goes_on_as_it_would_have(marines):
    played(marines, 7)
    saved = simulator_state(marines)
    actions = torch.full((B, 3), 1)
    step = TensorDict({keys.ACTION: actions}, [B])
    base = marines.base_env
    first = base.step(step.clone())["next"]
    load_simulator_state(marines, saved)
    again = base.step(step.clone())["next"]
    assert torch.equal(first["state"], again["state"])
    assert torch.equal(first[keys.OBSERVATION], again[keys.OBSERVATION])
    saved["simulator/0"] = saved["simulator/0"][:3]
    with pytest.raises(UserError, match="other arguments"):
        load_simulator_state(marines, saved)


@pytest.mark.parametrize("other", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copy_goes_on_with_the_same_battles_and_leaves_the_first_alone(marines, other):
    td = played(marines, 7)[:, -1]["next"].exclude(keys.REWARD)
    twin = other(marines)
    step = td.set(keys.ACTION, torch.full((B, 3), 1))
    theirs = twin.step(step.clone())["next"]
    ours = marines.step(step.clone())["next"]
    assert (ours == theirs).all()
    assert twin.base_env.battles is marines.base_env.battles, "nothing is compiled a second time"


@pytest.mark.parametrize("begun", [False, True])
def test_after_a_load_a_partial_reset_leaves_the_loaded_battles_alone(marines, begun):
    td = played(marines, 7)[:, -1]["next"]
    saved = simulator_state(marines)
    chosen = torch.zeros(B, 1, dtype=torch.bool)
    chosen[:3] = True
    ask = td.exclude(keys.REWARD).set("_reset", chosen)
    expected = marines.reset(ask.clone())
    other = make_env("smax/3m", num_envs=B, seed=1, state_target="relative")
    if begun:
        other.reset()
    load_simulator_state(other, saved)
    assert torch.equal(other.base_env._legal_now(), td[keys.ACTION_MASK])
    found = other.reset(ask.clone())
    everybody_stops = torch.full((B, 3), STOP)
    first, again = (
        env.step(start.clone().set(keys.ACTION, everybody_stops))["next"]
        for env, start in ((marines, expected), (other, found))
    )
    for key in ("state", keys.OBSERVATION, keys.ACTION_MASK, keys.ACTIVE_MASK, keys.TARGET_STATE):
        assert torch.equal(expected[key], found[key]), key
        assert torch.equal(first[key], again[key]), key


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"name": "smax/4m"}, "Unknown environment 'smax/4m'"),
        ({"enemy_types": "none"}, "Unknown enemy_types"),
        ({"enemy_types": "independent"}, "those of 3m are fixed"),
        ({"state_target": "both"}, "Unknown state_target"),
        ({"sight_range": 0}, "above 0 in map units"),
        ({"sight_range": "9"}, "above 0 in map units.*got '9'"),
        ({"seed": 1.0}, "seed must be a whole number.*got 1.0"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295.*got 4294967296"),
        ({"unit_type_health": [45.0, 125.0]}, "6 numbers above 0, one for each of marine, .*got \\[45.0, 125.0\\]"),
        ({"unit_type_health": 45.0}, "unit_type_health must be 6 numbers"),
        ({"unit_type_names": ["a"] * 6}, "Unknown argument of SMAX 'unit_type_names'"),
        ({"attack_mode": "nearest"}, "Unknown attack_mode 'nearest'.*closest, random"),
        ({"world_steps_per_env_step": 0}, "world_steps_per_env_step must be a whole number above 0"),
        ({"max_steps": 0}, "whole number above 0"),
        ({"sight": 3}, "Unknown argument of SMAX 'sight'"),
        ({"num_allies": 4}, "num_allies is decided by the map.*got 4: take another map"),
        ({"smacv2_position_generation": True}, "position_generation is decided by the map.*smacv2_5_units"),
        ({"smacv2_unit_type_generation": True}, "unit_type_generation is decided by the map"),
        ({"hide": ["enemy.health"]}, "did you mean"),
        ({"fast_push": "off"}, "fast_push must be True or False, got 'off': write fast_push=true"),
        ({"enemy_shoots": "no"}, "enemy_shoots must be True or False, got 'no'"),
        ({"map_width": 0}, "map_width must be a number above 0, got 0"),
        ({"time_per_step": float("inf")}, "time_per_step must be a number above 0, got inf"),
        ({"won_battle_bonus": [1.0]}, "won_battle_bonus must be a number, got \\[1.0\\]"),
        ({"max_steps": 2**31}, "max_steps must be at most 1073741824, got 2147483648: take max_steps=None"),
    ],
)
def test_mistakes_are_named(arguments, match):
    with pytest.raises(UserError, match=match):
        make_env(**{"name": "smax/3m", "num_envs": 2, **arguments})


def test_a_step_before_the_first_reset_is_refused():
    env = make_env("smax/3m", num_envs=B, state_target="relative")
    with pytest.raises(UserError, match="call reset first"):
        env.step(env.fake_tensordict())


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (torch.full((B, 3), 8), "expects numbers from 0 to 7, got 8: sample them"),
        (torch.full((B, 3), -1), "expects numbers from 0 to 7, got -1"),
        (torch.ones(B, 3, 1, dtype=torch.long), r"whole numbers of shape \[.*, 3\], .*got torch.int64 \[.*, 3, 1\]"),
        (torch.zeros(B, 3), "got torch.float32 .*take argmax"),
    ],
)
def test_an_action_that_there_is_not_is_refused_before_the_battles_move(marines, action, match):
    td = marines.reset()
    before = marines.base_env.simulator_tensors()
    with pytest.raises(UserError, match=match):
        marines.step(td.set(keys.ACTION, action))
    after = marines.base_env.simulator_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_jax_is_imported_for_smax_alone():
    code = "import sys, globediff_torchrl as g; g.make_env('vmas/hunt', num_envs=2); print('jax' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
