"""Each transform does what it says, also when only some environments are reset."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data.tensor_specs import Binary, Bounded, Categorical, MultiCategorical, OneHot, Unbounded
from torchrl.envs import Compose, ParallelEnv, Transform, TransformedEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs import (
    ActiveMask,
    AuxObservation,
    HideFeatures,
    JointObservation,
    LastAction,
    ObservationHistory,
    make_env,
)
from globediff_torchrl.envs.auxiliary import FrameMemory, joint
from globediff_torchrl.envs.vmas import PRESETS, StateVmasEnv
from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import ACTION, ACTIVE_MASK, AGENT_ID, AUX_OBSERVATION, LAST_ACTION, OBSERVATION


def early_ending(**kwargs):
    """Balance: the package falls at different times, so single environments are reset; nothing hidden."""
    torch.manual_seed(0)
    return make_env("vmas/balance", num_envs=6, **kwargs)


def rollout_with_partial_resets(env):
    rollout = env.rollout(120, break_when_any_done=False)
    done = rollout["next", "done"][..., 0]
    # some but not all environments are reset in one step: the case that is easy to get wrong
    assert (done.any(dim=0) & ~done.all(dim=0)).any()
    return rollout


def history_by_hand(frames, first, m, differences):
    """``frames`` [B, T, n, f], ``first`` [B, T] where an episode begins -> [B, T, n, (m + 1) f], by loops."""
    out = []
    for row, begins in zip(frames, first):
        for t in range(len(row)):
            start = max(s for s in range(t + 1) if begins[s])
            past = [row[max(t - k, start)] for k in range(m + 1)]
            if differences:
                past = [past[0], *(past[k] - past[k + 1] for k in range(m))]
            out.append(torch.cat(past, dim=-1))
    return torch.stack(out).reshape(*frames.shape[:-1], -1)


def begins(rollout):
    done = rollout["next", "done"][..., 0]
    return torch.cat([torch.ones_like(done[:, :1]), done[:, :-1]], dim=1)


@pytest.mark.parametrize("m", [0, 1, 3])
@pytest.mark.parametrize("differences", [True, False])
def test_history_equals_a_hand_built_one_through_partial_resets(m, differences):
    base = StateVmasEnv("balance", num_envs=6, seed=0)
    env = TransformedEnv(base, ObservationHistory(history=m, differences=differences))
    torch.manual_seed(0)
    rollout = rollout_with_partial_resets(env)
    expected = history_by_hand(rollout["agents", "observation"], begins(rollout), m, differences)
    torch.testing.assert_close(rollout["agents", "aux_observation"], expected, rtol=0, atol=0)


def test_terminal_frames_under_next_still_belong_to_the_episode_that_ends():
    env = early_ending(aux="history")
    rollout = rollout_with_partial_resets(env)
    size = env.task.observation_layout.size + 2
    now, after = rollout["agents", "aux_observation"][..., :size], rollout["next", "agents", "aux_observation"]
    torch.testing.assert_close(after[..., size : 2 * size], after[..., :size] - now, rtol=0, atol=0)


@pytest.mark.parametrize("aux", ["history", "joint", "joint_history"])
@pytest.mark.parametrize("continuous", [True, False])
def test_x_equals_its_pieces_put_together_by_hand(aux, continuous):
    env = early_ending(aux=aux, continuous_actions=continuous)
    rollout = rollout_with_partial_resets(env)
    n, agents = 3, rollout["agents"]
    frames = torch.cat([agents["observation"], agents["last_action"]], dim=-1)
    x = history_by_hand(frames, begins(rollout), 3 if "history" in aux else 0, True)
    if "joint" in aux:
        x = torch.stack([torch.cat([x[:, :, (i + k) % n] for k in range(n)], dim=-1) for i in range(n)], dim=2)
    x = torch.cat([x, torch.eye(n).expand(*x.shape[:-1], n)], dim=-1)
    torch.testing.assert_close(agents["aux_observation"], x, rtol=0, atol=0)
    assert env.task.aux_dim == x.shape[-1]


def test_aux_observation_equals_the_small_transforms_composed():
    torch.manual_seed(0)
    base = StateVmasEnv("balance", num_envs=6, seed=0)
    pieces = Compose(
        ObservationHistory(history=2, differences=True, out_key=("agents", "pieces")),
        JointObservation(in_key=("agents", "pieces"), out_key=("agents", "pieces")),
        LastAction(base.full_action_spec["agents", "action"]),
        AuxObservation(history=2, join=True),
    )
    rollout = rollout_with_partial_resets(TransformedEnv(base, pieces))
    x = rollout[AUX_OBSERVATION][..., :-3].unflatten(-1, (3, 3, 18))[..., :16]
    torch.testing.assert_close(x.flatten(-3), rollout["agents", "pieces"], rtol=0, atol=0)


def test_joint_puts_the_own_observation_first_and_then_goes_round():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    assert joint(x).tolist() == [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
    assert joint(x.expand(4, 5, 3, 1)).shape == (4, 5, 3, 3)


def test_differences_lose_nothing():
    torch.manual_seed(0)
    plain, turned = FrameMemory(3, differences=False), FrameMemory(3, differences=True)
    for _ in range(6):
        frame = torch.randn(2, 3, 5)
        raw, differences = plain.push(frame), turned.push(frame)
    blocks = differences.unflatten(-1, (4, 5))
    rebuilt = torch.stack([blocks[..., 0, :] - blocks[..., 1 : k + 1, :].sum(dim=-2) for k in range(4)], dim=-2)
    torch.testing.assert_close(rebuilt.flatten(-2), raw)


def test_history_0_is_the_observation_and_a_negative_one_is_refused():
    assert FrameMemory(0, True).push(torch.ones(1, 2, 3)).shape == (1, 2, 3)
    with pytest.raises(UserError, match="history must be a whole number of earlier frames, 0 or more, got"):
        FrameMemory(-1, True)


@pytest.mark.parametrize("name", PRESETS)
def test_hidden_features_are_zero_and_all_else_is_untouched(name):
    def rollout(**kwargs):
        env = make_env(f"vmas/{name}", num_envs=4, seed=3, **kwargs)
        torch.manual_seed(0)
        return env, env.rollout(15, break_when_any_done=False)

    env, masked = rollout()
    _, full = rollout(hide=None)
    visible = torch.ones(env.task.n_agents, env.task.observation_layout.size, dtype=torch.bool)
    for hidden in env.task.hidden:
        scope, feature = hidden.split(".", 1)
        rows = slice(None) if scope == "agents" else int(scope[6:])
        visible[rows, env.task.observation_layout.slices[feature]] = False
    assert bool(env.task.hidden) == (name != "gates")
    for when in ((), ("next",)):
        seen, truth = masked[(*when, "agents", "observation")], full[(*when, "agents", "observation")]
        assert (seen[..., ~visible] == 0).all()
        assert (seen[..., visible] == truth[..., visible]).all()
        assert not visible.any() or (truth[..., ~visible] != 0).any() or not env.task.hidden
        assert (masked[(*when, "state")] == full[(*when, "state")]).all()
    assert (masked["next", "agents", "reward"] == full["next", "agents", "reward"]).all()


def test_x_leaves_out_what_is_hidden_from_everybody_only():
    assert make_env("vmas/hunt", num_envs=1, aux="joint").task.aux_dim == 2 * (5 + 2) + 2
    assert make_env("vmas/hunt", num_envs=1, aux="joint", hide=None).task.aux_dim == 2 * (7 + 2) + 2
    # what only some cannot see stays: balance_sensors hides 16 numbers from one agent or another, none from all
    assert make_env("vmas/balance_sensors", num_envs=1).task.aux_dim == 3 * (16 + 2) + 3


def test_hiding_infinity_gives_zero():
    env = make_env("vmas/hunt", num_envs=1)
    transform = next(t for t in env.transform if isinstance(t, HideFeatures))
    td = env.fake_tensordict().exclude("next")
    td["agents", "observation"] = torch.full((1, 2, 7), float("inf"))
    assert transform._call(td)["agents", "observation"][0, 0].tolist() == [*[float("inf")] * 4, 0, 0, float("inf")]
    assert repr(transform) == "HideFeatures(agents.target.offset)"


class Doubles(Transform):
    """The observation as numpy gives it."""

    def _call(self, td):
        return td.set(OBSERVATION, td[OBSERVATION].double())

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)

    def transform_observation_spec(self, spec):
        spec[OBSERVATION] = Unbounded(spec[OBSERVATION].shape, dtype=torch.float64)
        return spec


@pytest.mark.parametrize("aux", [ObservationHistory, JointObservation, AuxObservation])
def test_x_and_last_action_of_doubles_are_float32_as_their_specs_say(aux):
    base = StateVmasEnv("balance", num_envs=2, seed=0)
    env = TransformedEnv(base, Compose(Doubles(), LastAction(base.full_action_spec[ACTION]), aux()))
    check_env_specs(env)
    rollout = env.rollout(3)
    assert rollout[OBSERVATION].dtype == torch.float64
    for part in (rollout, rollout["next"]):
        assert part[LAST_ACTION].dtype == part[AUX_OBSERVATION].dtype == torch.float32


def test_last_action_is_zero_after_every_reset():
    rollout = rollout_with_partial_resets(early_ending())
    first, last, action = begins(rollout), rollout["agents", "last_action"], rollout["agents", "action"]
    assert (last[first] == 0).all()
    torch.testing.assert_close(last[:, 1:][~first[:, 1:]], action[:, :-1][~first[:, 1:]], rtol=0, atol=0)


def test_last_action_is_one_hot_for_every_kind_of_discrete_action():
    assert LastAction(Categorical(5, shape=(3, 2))).size == 5
    assert LastAction(OneHot(4, shape=(3, 2, 4))).size == 4
    assert LastAction(Bounded(-1, 1, (3, 2, 2))).size == 2


def test_of_several_binary_numbers_each_is_one_number_of_the_last_action():
    """TorchRL's Binary is a kind of Categorical, but of several numbers an agent."""
    last, td = LastAction(Binary(3, (4, 2, 3))), TensorDict({ACTION: torch.randint(2, (4, 2, 3))}, [4])
    assert last.size == 3
    assert torch.equal(
        last._step(td, TensorDict(agents=TensorDict({}, [4, 2]), batch_size=[4]))[LAST_ACTION], td[ACTION].float()
    )
    with pytest.raises(UserError, match=r"continuous, categorical or one-hot, got MultiCategorical: number them"):
        LastAction(MultiCategorical((2, 3), (4, 2, 2)))


def test_active_mask_marks_those_whose_no_op_is_legal_as_dead():
    td = make_env("vmas/hunt", num_envs=2).reset()
    td["agents", "action_mask"] = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[0, 1, 0], [0, 1, 1]]]).bool()
    alive = ActiveMask(no_op=0)._call(td)["agents", "active_mask"]
    assert alive[..., 0].tolist() == [[False, True], [True, True]]


def test_time_is_the_share_of_the_limit_and_zero_without_one():
    rollout = make_env("vmas/hunt", num_envs=2, max_steps=4).rollout(8, break_when_any_done=False)
    assert rollout["time"][0, :, 0].tolist() == [0, 0.25, 0.5, 0.75] * 2
    assert rollout["next", "time"][0, 3, 0] == 1
    assert not make_env("vmas/hunt", num_envs=2, max_steps=None).rollout(8)["next", "time"].any()


def test_two_environments_of_one_process_do_not_share_memories():
    one, other = (make_env("vmas/hunt", num_envs=2, seed=seed) for seed in (0, 1))
    td = one.reset()
    other.rollout(5)
    stepped = one.step(one.rand_action(td))["next", "agents", "aux_observation"]
    # five visible numbers and two of the last action
    torch.testing.assert_close(stepped[..., 7:14], stepped[..., :7] - td[AUX_OBSERVATION][..., :7])


def make_balance():
    return make_env("vmas/balance_sensors", num_envs=2, max_steps=6)


def test_histories_are_right_inside_parallel_envs():
    env = ParallelEnv(2, make_balance, mp_start_method="fork")
    try:
        rollout = env.rollout(10, break_when_any_done=False).reshape(4, 10)
    finally:
        env.close()
    agents = rollout["agents"]
    frames = torch.cat([agents["observation"], agents["last_action"]], dim=-1)
    torch.testing.assert_close(agents["aux_observation"][..., :18], frames, rtol=0, atol=0)


def test_histories_go_on_from_one_collector_batch_to_the_next():
    env = make_env("vmas/mirror", num_envs=3, aux="history", max_steps=7)
    collector = Collector(env, frames_per_batch=15, total_frames=60, use_buffers=False)
    rollout = torch.cat([batch.clone() for batch in collector], dim=1)
    collector.shutdown()
    agents = rollout["agents"]
    seen = torch.cat([agents["observation"][..., [0, 1, 2, 3, 6]], agents["last_action"]], dim=-1)
    expected = history_by_hand(seen, begins(rollout), 3, True)
    torch.testing.assert_close(agents["aux_observation"][..., :-2], expected, rtol=0, atol=0)


def readings(aux, spoil):
    """Five readings in a row; with ``spoil``, each is overwritten in place once it is copied."""
    keys = (OBSERVATION, LAST_ACTION, AGENT_ID, ACTIVE_MASK, AUX_OBSERVATION)
    torch.manual_seed(0)
    env = make_env("vmas/balance", 3, aux=aux, hide=["agent.velocity"], continuous_actions=False, seed=100)
    reading, copies = env.reset(), []
    for action in range(5):
        copies.append(reading.select(*keys).clone())
        given = reading.clone().set(ACTION, torch.full((3, env.task.n_agents), action))
        for key in keys if spoil else ():
            reading[key].fill_(action % 2 + 6)
        reading = env.step(given)["next"]
    return torch.stack(copies)


@pytest.mark.parametrize("aux", ["joint", "history", "joint_history"])
def test_what_a_user_writes_into_a_reading_never_comes_back(aux):
    assert (readings(aux, spoil=True) == readings(aux, spoil=False)).all()
