"""Our own VMAS scenarios: rewards by hand, what is ambiguous in them and what is not, returns of simple players."""

from __future__ import annotations

import math

import pytest
import torch
import vmas
from simple_players import play, put, still, world_of
from torchrl.envs.libs.vmas import VmasEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs import make_env
from globediff_torchrl.envs.vmas import PRESETS, scenarios


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not isinstance(preset.scenario, str)])
def test_scenarios_work_in_plain_vmas_and_in_torchrls_own_env(name):
    preset = PRESETS[name]
    env = vmas.make_env(preset.scenario(), num_envs=3, seed=0, **preset.kwargs)
    for _ in range(3):
        observations, rewards, done, _ = env.step(env.get_random_actions())
    env.reset_at(1)
    assert len(observations) == len(rewards) == env.n_agents and not done.any()
    check_env_specs(VmasEnv(preset.scenario(), num_envs=2, **preset.kwargs))


def test_hunt_rewards_by_hand():
    env = make_env("vmas/hunt", num_envs=2)
    td = env.reset()
    put(env, [[0.0, 0.0], [0.3, 0.4]], target=[0.0, 0.0])
    # d = 0 and .5: .1 * (1 + exp(-4)) / 2
    reward = still(env, td)["agents", "reward"]
    torch.testing.assert_close(reward, torch.full((2, 2, 1), 0.1 * (1 + math.exp(-4)) / 2))
    # the midpoint of two candidates .7 apart pays 14 % of what the right one pays
    put(env, [[0.0, 0.0], [0.0, 0.0]], target=[0.35, 0.0])
    assert still(env, td)["agents", "reward"][0, 0].item() == pytest.approx(0.1 * math.exp(-1.96))


def test_hunt_observes_target_minus_own_position():
    env = make_env("vmas/hunt", num_envs=1, hide=None)
    td = env.reset()
    put(env, [[0.1, 0.0], [0.0, 0.2]], target=[0.4, 0.4])
    observation = still(env, td)["agents", "observation"][0]
    torch.testing.assert_close(observation[0], torch.tensor([0.1, 0.0, 0.0, 0.0, 0.3, 0.4, 0.5]))


def test_walls_hold_the_hunters():
    env = make_env("vmas/hunt", num_envs=4, max_steps=None)
    td = env.reset()
    for _ in range(60):
        td["agents", "action"] = torch.ones(4, 2, 2)
        td = env.step(td)["next"].exclude(("agents", "reward"))
    assert (td["agents", "observation"][..., :2] == 0.7).all()


def test_hunt_pays_an_oracle_as_measured():
    # reference: 4.37 / 4.42 learnt; nothing: .66
    env = make_env("vmas/hunt", num_envs=512, seed=0)
    target = play(env, lambda env, td: world_of(env).landmarks[0].state.pos.unsqueeze(1), 60)
    middle = play(env, lambda env, td: torch.zeros(1, 2, 2), 60)
    assert 4.2 < target < 4.8
    assert middle < 1.0


def test_gates_rewards_by_hand():
    env = make_env("vmas/gates", num_envs=2)
    td = env.reset()
    scenario = env.base_env._env.scenario
    scenario.bits = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])  # gates at -.4 and .4
    put(env, [[0.4, 0.3], [0.0, -0.5]])
    far = math.exp(-((0.8 / 0.25) ** 2))
    reward = still(env, td)["agents", "reward"][:, :, 0]
    torch.testing.assert_close(reward[0], torch.full((2,), 0.1 * (5 * (far - 1) + 1) / 6))
    torch.testing.assert_close(reward[1], torch.full((2,), 0.1 * (5 * (1 - far) + 1) / 6))
    # between the gates agent 0 gets nothing, whatever the bits
    put(env, [[0.0, 0.3], [0.25, 0.0]])
    reward = still(env, td)["agents", "reward"]
    torch.testing.assert_close(reward, torch.full((2, 2, 1), 0.1 * math.exp(-1) / 6))


def test_gates_of_three_shares_pay_all_agents():
    env = make_env("vmas/gates", num_envs=1, shares=3)
    td = env.reset()
    env.base_env._env.scenario.bits = torch.tensor([[1.0, 1.0]])
    put(env, [[0.4, 0.0], [-0.4, 0.0], [0.0, 0.0]])
    assert still(env, td)["agents", "reward"].abs().max() < 1e-6
    put(env, [[0.4, 0.0]] * 3)
    assert still(env, td)["agents", "reward"].min() == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("shares", [2, 3, 4])
def test_the_shares_multiply_to_the_product_of_the_bits_and_fewer_tell_nothing(shares):
    env = make_env("vmas/gates", num_envs=4_000, shares=shares, seed=0)
    td = env.reset()
    bits = td["state"][:, env.task.state_layout.slices["team.bits"]]
    seen = td["agents", "observation"][:, :, env.task.observation_layout.slices["agent.share"]].squeeze(-1)
    product = bits.prod(dim=1)
    assert torch.equal(seen.prod(dim=1), product)
    # 4,000 coins: a correlation beyond .07 has a chance of one in a hundred thousand
    assert bits.mean(dim=0).abs().max() < 0.07 and seen.mean(dim=0).abs().max() < 0.07
    for left_out in range(shares):
        rest = seen[:, [i for i in range(shares) if i != left_out]].prod(dim=1)
        assert (rest * product).mean().abs() < 0.07
    # all shares tell the product, and of either bit nothing: (1, 1) and (-1, -1) stay equally likely
    assert (seen.prod(dim=1, keepdim=True) * bits).mean(dim=0).abs().max() < 0.07


def test_shares_and_bits_stay_for_an_episode_and_change_with_it():
    rollout = make_env("vmas/gates", num_envs=64, max_steps=5).rollout(10, break_when_any_done=False)
    bits = rollout["state"][..., -2:]
    assert (bits[:, :5] == bits[:, :1]).all() and (bits[:, 5:] == bits[:, 5:6]).all()
    assert not (bits[:, 0] == bits[:, 5]).all()


def test_gates_pay_an_oracle_and_a_guesser_as_measured():
    # reference: oracle 4.11, local observation .71
    env = make_env("vmas/gates", num_envs=2_048, seed=0)

    def places(env, sign):
        x = torch.stack([0.4 * sign, torch.zeros_like(sign)], dim=1)
        return torch.stack([x, torch.zeros_like(x)], dim=-1)

    oracle = play(env, lambda env, td: places(env, env.base_env._env.scenario.bits.prod(dim=1)), 50)
    guesser = play(env, lambda env, td: places(env, td["agents", "observation"][:, 0, 4]), 50)
    assert 3.9 < oracle < 4.3
    assert 0.5 < guesser < 1.0


def test_gates_need_two_shares():
    with pytest.raises(ValueError, match="at least 2 shares"):
        make_env("vmas/gates", shares=1)


def test_navigation_pays_what_vmas_navigation_pays():
    kwargs = {"n_agents": 3, "collisions": False, "agent_radius": 0.05}
    stock = vmas.make_env("navigation", num_envs=8, seed=0, **kwargs)
    ours = vmas.make_env(scenarios.Navigation(), num_envs=8, seed=1, n_agents=3)
    for mine, theirs in zip(ours.agents, stock.agents):
        mine.set_pos(theirs.state.pos, batch_index=None)
        mine.goal.set_pos(theirs.goal.state.pos, batch_index=None)
        theirs.goal.state.pos[0] = mine.goal.state.pos[0] = theirs.state.pos[0] + 0.01  # one team is on its goals
        theirs.pos_shaping = (theirs.state.pos - theirs.goal.state.pos).norm(dim=-1)
    ours.scenario._distances = ours.scenario.distances()
    for _ in range(10):
        actions = [0.3 * action for action in stock.get_random_actions()]
        stepped = [env.step([action.clone() for action in actions]) for env in (ours, stock)]
        for i in range(3):
            torch.testing.assert_close(stepped[0][1][i], stepped[1][1][i])
            torch.testing.assert_close(stepped[0][0][i][:, :4], stepped[1][0][i][:, :4])


def test_nobody_is_paid_for_a_reset():
    env = make_env("vmas/relay", num_envs=4, max_steps=3)
    rollout = env.rollout(9, break_when_any_done=False)
    assert rollout["next", "agents", "reward"].abs().max() < 0.2  # three agents, .04 a step each at most
    simulator = env.base_env._env
    simulator.reset_at(2)
    before = simulator.scenario._distances[2]
    torch.testing.assert_close(before, simulator.scenario.distances()[2])


def test_relay_shows_the_mates_goals_in_the_order_of_the_joint_observation():
    env = make_env("vmas/relay", num_envs=2, hide=None)
    observation = env.reset()["agents", "observation"]
    layout, world = env.task.observation_layout, world_of(env)
    for i in range(3):
        for k in (1, 2):
            goal = world.agents[(i + k) % 3].goal.state.pos
            seen = observation[:, i, layout.slices[f"goal_of_mate_{k}.offset"]]
            torch.testing.assert_close(seen, goal - world.agents[i].state.pos)


def test_three_ranges_fix_the_goal_and_two_leave_a_mirror_point():
    for name, candidates in (("trilateration", 1), ("mirror", 2)):
        env = make_env(f"vmas/{name}", num_envs=16, seed=0)
        td = env.reset()
        observation = td["agents", "observation"]
        where, ranges = observation[..., :2], observation[..., -1]
        goal = td["state"][:, env.task.state_layout.slices["goal.position"]]
        # the goal mirrored at the line through the first two agents
        along = torch.nn.functional.normalize(where[:, 1] - where[:, 0], dim=-1)
        offset = goal - where[:, 0]
        mirrored = where[:, 0] + 2 * (offset * along).sum(dim=-1, keepdim=True) * along - offset
        for point in (goal, mirrored):
            fits = torch.isclose((point.unsqueeze(1) - where).norm(dim=-1), ranges, atol=1e-4).all(dim=1)
            assert fits.all() if point is goal or candidates == 2 else not fits.any()


@pytest.mark.parametrize(
    ("name", "target", "box", "share"), [("mirror", "goal", 0.5, 0.52), ("hunt", "target", 0.7, 0.57)]
)
def test_both_mirror_points_lie_within_the_walls_in_about_half_of_the_episodes(name, target, box, share):
    env = make_env(f"vmas/{name}", num_envs=2048, seed=5)
    state, slices = env.reset()["state"], env.task.state_layout.slices
    a, b, true = (state[:, slices[f"{entity}.position"]] for entity in ("agent_0", "agent_1", target))
    along = torch.nn.functional.normalize(b - a, dim=-1)
    foot = a + ((true - a) * along).sum(-1, keepdim=True) * along
    assert ((2 * foot - true).abs() <= box).all(-1).float().mean().item() == pytest.approx(share, abs=0.03)


def test_compass_turns_the_controls_by_the_hidden_angle():
    env = make_env("vmas/compass", num_envs=64, hide=None)
    td = env.reset()
    torch.manual_seed(0)
    td["agents", "action"] = command = torch.rand(64, 3, 2) - 0.5
    after = env.step(td)["next"]
    layout = env.task.observation_layout
    cos, sin = after["agents", "observation"][..., layout.slices["team.heading"]].unbind(-1)
    x, y = command.unbind(-1)
    # from rest, one step of force u for .1 s: velocity .1 u
    turned = 0.1 * torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
    torch.testing.assert_close(after["agents", "observation"][..., layout.slices["agent.velocity"]], turned)
    commanded = after["agents", "observation"][..., layout.slices["agent.last_action"]]
    torch.testing.assert_close(commanded, command, rtol=0, atol=0)
    angles = torch.atan2(sin, cos)[:, 0]
    assert angles.std() > 1.4 and (angles.unsqueeze(1) == torch.atan2(sin, cos)).all()


def test_the_pursued_target_flies_straight_bounces_and_keeps_its_speed():
    env = make_env("vmas/pursuit", num_envs=32, max_steps=None, seed=0)
    state = env.rollout(100)["state"]
    layout = env.task.state_layout
    where, velocity = state[..., layout.slices["target.position"]], state[..., layout.slices["target.velocity"]]
    assert where.abs().max() <= 0.7
    torch.testing.assert_close(velocity.norm(dim=-1), torch.full((32, 100), 0.3))
    straight = (velocity[:, 1:] == velocity[:, :-1]).all(dim=-1)
    torch.testing.assert_close((where[:, 1:] - where[:, :-1])[straight], (0.1 * velocity[:, 1:])[straight])
    assert 0.85 < straight.float().mean() < 1


def test_the_pursued_target_is_seen_from_near_only():
    env = make_env("vmas/pursuit", num_envs=64, seed=0)
    observation = env.rollout(20)["agents", "observation"].flatten(0, 2)
    full = make_env("vmas/pursuit", num_envs=64, seed=0, hide=None).reset()["agents", "observation"].flatten(0, 1)
    near = full[:, 4:6].norm(dim=-1) <= 0.4
    assert torch.equal(full[:, 6], near.float()) and near.any() and not near.all()
    torch.testing.assert_close(full[:, 7:9], full[:, 4:6] * near.unsqueeze(-1), rtol=0, atol=0)
    assert not observation[:, 4:6].any() and observation[:, 7:9].any()
