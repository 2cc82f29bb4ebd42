"""SMAX as an environment of ours against jaxmarl's own: the same scenarios, the same steps."""

from __future__ import annotations

import pytest
import torch
from smax_battles import B, half_attack, need_jaxmarl

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs.smax.layouts import SCENARIOS, UNIT_TYPES

need_jaxmarl()
pytestmark = pytest.mark.usefixtures("jaxmarl_in_silence")


def test_all_of_jaxmarls_scenarios_are_listed():
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert set(SCENARIOS) == set(MAP_NAME_TO_SCENARIO)


def test_the_types_of_units_are_jaxmarls():
    from jaxmarl.environments.smax.smax_env import SMAX

    assert list(UNIT_TYPES) == SMAX().unit_type_names


@pytest.mark.parametrize(("scenario", "num_envs"), [("3m", B), ("smacv2_5_units", 4)])
def test_a_reset_equals_that_of_jaxmarl(scenario, num_envs):
    """Same key, same battle: of each battle's key the second half is handed to jaxmarl's ``reset``."""
    import jax
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    env = make_env(f"smax/{scenario}", num_envs=num_envs, hide=None, aux=None, seed=3, state_target="relative")
    theirs = HeuristicEnemySMAX(scenario=map_name_to_scenario(scenario))
    start = jax.vmap(jax.random.split)(env.base_env._keys)[:, 1]
    td = env.reset()
    observation, state = jax.jit(jax.vmap(theirs.reset))(start)
    for i, agent in enumerate(theirs.agents):
        seen = torch.from_dlpack(observation[agent])
        torch.testing.assert_close(td[keys.OBSERVATION][:, i], seen, atol=1e-6, rtol=0)
    check_state(env, td["state"], torch.from_dlpack(observation["world_state"]), theirs)
    ours, expected = jax.tree.leaves(env.base_env._battle[0]), jax.tree.leaves(state)
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected):
        torch.testing.assert_close(
            torch.from_dlpack(one), torch.from_dlpack(other), atol=1e-6, rtol=0, check_dtype=False
        )
    positions = torch.from_dlpack(state.state.unit_positions)
    assert len(positions.flatten(1).unique(dim=0)) == num_envs, "the battles differ"


@pytest.mark.parametrize(
    ("scenario", "enemy_shoots"),
    [
        ("3m", True),
        ("2s3z", True),
        ("5m_vs_6m", True),
        ("smacv2_5_units", True),
        ("3m", False),
        ("smacv2_5_units", False),
    ],
)
def test_steps_equal_those_of_jaxmarl(scenario, enemy_shoots):
    """Same keys, same actions: observations, state, masks, rewards and ends of jaxmarl's ``step_env``.

    60 steps of random actions, which lose; and 130 against enemies that do not shoot, with wins and battles that end in
    step 101. Each step starts from our state, so that the last bits of one step do not decide the shots of a later one.
    """
    import jax
    import jax.numpy as jnp
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    options = {"hide": None, "aux": None, "seed": 3, "state_target": "relative", "enemy_shoots": enemy_shoots}
    env = make_env(f"smax/{scenario}", num_envs=B if scenario == "3m" else 4, **options)
    theirs = HeuristicEnemySMAX(scenario=map_name_to_scenario(scenario), enemy_shoots=enemy_shoots)
    agents = theirs.agents

    @jax.jit
    @jax.vmap
    def step(key, state, actions):
        _, key = jax.random.split(key)
        observation, state, reward, done, _ = theirs.step_env(key, state, {a: actions[i] for i, a in enumerate(agents)})
        mask = theirs.get_avail_actions(state)
        stacked = jnp.stack([observation[a] for a in agents]), jnp.stack([mask[a] for a in agents])
        return *stacked, observation["world_state"], reward["ally_0"], done["__all__"], state

    torch.manual_seed(0)
    td, seen = env.reset(), []
    for _ in range(60 if enemy_shoots else 130):
        key, state = env.base_env._keys, env.base_env._battle[0]
        td = env.rand_action(td) if enemy_shoots else half_attack(td)
        actions = jnp.asarray(td[keys.ACTION].numpy().astype("int32"))
        observation, mask, world, reward, done, new = step(key, state, actions)
        td, after = env.step_and_maybe_reset(td)
        ours = td["next"]
        torch.testing.assert_close(ours[keys.OBSERVATION], torch.from_dlpack(observation), atol=1e-5, rtol=0)
        assert (ours[keys.ACTION_MASK] == torch.from_dlpack(mask).bool()).all()
        torch.testing.assert_close(ours[keys.REWARD][:, 0, 0], torch.from_dlpack(reward), atol=1e-6, rtol=0)
        assert (ours["done"][:, 0] == torch.from_dlpack(done)).all()
        alive = torch.from_dlpack(new.state.unit_alive)
        n = theirs.num_allies
        assert (ours["success"][:, 0] == (alive[:, :n].any(1) & ~alive[:, n:].any(1))).all()
        check_state(env, ours["state"], torch.from_dlpack(world), theirs)
        seen.append(ours.select("success", "truncated", "terminated").clone())
        td = after
    ends = torch.stack(seen)
    if enemy_shoots:
        assert (ends["terminated"] & ~ends["success"]).any()
    else:
        assert ends["success"].any() and ends["truncated"].any() and (ends["terminated"] == ends["success"]).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_built_with_the_sizes_of_jaxmarls_own(scenario, monkeypatch):
    """Ours leaves out of jaxmarl's world state each unit's side, its type's number, and where the types are fixed the
    one-hot code, for which a bit for life stands."""
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    from globediff_torchrl.envs.smax import battle as smax_battle

    # make_battles keeps the last few: these would push out what the other tests have compiled
    monkeypatch.setattr(smax_battle, "make_battles", smax_battle.Battles)
    env = make_env(f"smax/{scenario}", num_envs=2, hide=None, aux=None)
    theirs = HeuristicEnemySMAX(scenario=map_name_to_scenario(scenario))
    agents, units = len(theirs.agents), theirs.num_allies + theirs.num_enemies
    size = theirs.observation_spaces["ally_0"].shape[0]
    assert env.observation_spec[keys.OBSERVATION].shape == (2, agents, size)
    assert env.task.observation_layout.size == size
    actions = {theirs.action_spaces[agent].n for agent in theirs.agents}
    assert env.full_action_spec[keys.ACTION].shape == (2, agents)
    assert {env.full_action_spec[keys.ACTION].space.n, env.observation_spec[keys.ACTION_MASK].shape[-1]} == actions
    types = theirs.unit_type_bits
    left_out = 2 * units if theirs.smacv2_unit_type_generation else (2 + types - 1) * units
    assert env.observation_spec[keys.STATE].shape == (2, theirs.state_size - left_out)
    assert env.task.state_layout.size == theirs.state_size - left_out
    assert len(env.task.state_layout.entities) == units


def check_state(env, state, world, theirs):
    """Our state is jaxmarl's world state as shares, without what is constant or said twice."""
    units = theirs.num_allies + theirs.num_enemies
    rows = world[:, : 10 * units].reshape(-1, units, 10)
    types = rows[..., 4:].argmax(-1)
    cooldowns = torch.from_dlpack(theirs.unit_type_weapon_cooldowns).clone()[types]
    for i, unit in enumerate(env.task.state_layout.entities):
        ours = {name: state[:, env.task.state_layout.slices[f"{unit}.{name}"]] for name in ("health", "position")}
        torch.testing.assert_close(ours["health"], rows[:, i, :1])
        torch.testing.assert_close(ours["position"], rows[:, i, 1:3] / 32, atol=1e-6, rtol=0)
        cooldown = state[:, env.task.state_layout.slices[f"{unit}.cooldown"]][:, 0]
        torch.testing.assert_close(cooldown, rows[:, i, 3].clamp(min=0) / cooldowns[:, i], atol=1e-5, rtol=0)
        kind = rows[:, i, 4:] if env.base_env.battles.types else rows[:, i, 4:].sum(-1, keepdim=True)
        ours = state[:, env.task.state_layout.slices[f"{unit}.{'type' if env.base_env.battles.types else 'alive'}"]]
        assert (ours == kind).all()


def test_the_fast_push_is_jaxmarls():
    """Crowded units, dead and alive: positions agree to 4e-6 map units."""
    import jax
    from jaxmarl.environments.smax.smax_env import SMAX, map_name_to_scenario

    from globediff_torchrl.envs.smax.units import ScalarPush

    slow, fast = (kind(scenario=map_name_to_scenario("smacv2_5_units")) for kind in (SMAX, ScalarPush))
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(200, 10, 2, generator=generator) * 3 + torch.rand(200, 1, 2, generator=generator) * 28
    types = torch.randint(6, (200, 10), generator=generator).to(torch.uint8)
    alive = torch.rand(200, 10, generator=generator) < 0.8
    _, state = jax.eval_shape(slow.reset, jax.random.PRNGKey(0))
    numbers = {"unit_positions": positions, "unit_types": types, "unit_alive": alive}
    state = state.replace(**{name: jax.numpy.asarray(value.numpy()) for name, value in numbers.items()})
    fields = ("unit_positions", "unit_types", "unit_alive")

    def push(simulator):
        def one(positions, types, alive):
            return simulator._push_units_away(state.replace(**dict(zip(fields, (positions, types, alive)))))

        pushed = jax.jit(jax.vmap(lambda *args: one(*args).unit_positions))
        return torch.from_dlpack(pushed(*(getattr(state, field) for field in fields)))

    before, after = push(slow), push(fast)
    assert (before - positions).abs().max() > 0.1
    assert (before - after).abs().max() < 4e-6
