"""Memory of actor and critic: the same step by step and in sequence, emptied at resets, carried by the environment."""

from __future__ import annotations

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type
from torchrl.modules import set_recurrent_mode

from globediff_torchrl import UserError, make_actor, make_critic, make_env, make_state_model, record_episode
from globediff_torchrl import keys as k
from globediff_torchrl.keys import ACTOR_HIDDEN
from globediff_torchrl.policies import add_memory
from globediff_torchrl.policies.recurrent import Memory, hidden_before, memories

SMALL = {"hidden_sizes": (16,), "recurrent": "gru"}


def hunt(**options):
    return make_env("vmas/hunt", **{"num_envs": 4, "seed": 0, "max_steps": 5, **options})


def recurrent_actor(env, **options):
    torch.manual_seed(0)
    actor = make_actor(env, reads=None, gain=1.0, **{**SMALL, **options})
    add_memory(env, actor)
    return actor


def drawn(env, policy, steps):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, policy, break_when_any_done=False)


# -------------------------------------------------------------------------------------------------------------- memory
def step_by_step(memory, value, first, starts):
    """What the sequence should be: one step after another, the hidden state zeroed where an episode starts."""
    outputs, states, hidden = [], [], first
    for x, start in zip(value, starts):
        output, hidden = memory.step(x, torch.where(start, 0.0, hidden))
        outputs.append(output)
        states.append(hidden)
    return torch.stack(outputs), torch.stack(states)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("agents", [(), (3,)])
def test_a_sequence_is_its_steps_one_by_one(share, agents):
    torch.manual_seed(0)
    memory = Memory(5, 7)
    value, first = torch.randn(12, 4, *agents, 5), torch.randn(4, *agents, 7)
    starts = (torch.rand(12, 4, *[1] * len(agents), 1) < share).expand(12, 4, *agents, 1)
    for one, two in zip(memory.sequence(value, first, starts), step_by_step(memory, value, first, starts)):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_the_reference_memory_is_an_orthogonal_gru_with_a_layer_norm_behind_it():
    memory = Memory(64, 64)
    for gate in memory.gru.weight_hh_l0.T.unsqueeze(0):
        torch.testing.assert_close(gate @ gate.T, torch.eye(64), atol=1e-4, rtol=0)
    assert (memory.gru.bias_ih_l0 == 0).all() and (memory.gru.bias_hh_l0 == 0).all()
    value, hidden = torch.randn(6, 64), torch.randn(6, 64)
    output, after = memory.step(value, hidden)
    torch.testing.assert_close(output, torch.nn.functional.layer_norm(after, (64,)))
    cell = torch.nn.GRUCell(64, 64)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in memory.gru.state_dict().items()})
    torch.testing.assert_close(after, cell(value, hidden))


def test_gradients_stay_within_an_episode():
    torch.manual_seed(0)
    memory = Memory(3, 4)
    value, first = torch.randn(6, 2, 3, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    starts = torch.zeros(6, 2, 1, dtype=torch.bool)
    starts[3, 0] = True  # of the first row alone
    output, _ = memory.sequence(value, first, starts)
    (output[4] * torch.randn(2, 4)).sum().backward()
    reached = value.grad.abs().sum(-1) > 0
    assert reached.T.tolist() == [[False, False, False, True, True, False], [True, True, True, True, True, False]]
    assert (first.grad[0] == 0).all() and (first.grad[1] != 0).any()


# -------------------------------------------------------------------------------------------------------------- rollout
@pytest.mark.parametrize("inferring", [False, True])
def test_a_rollout_carries_the_memory_and_empties_it_at_each_reset(inferring):
    env = hunt()
    torch.manual_seed(0)
    model = make_state_model("globediff", env, width=16) if inferring else None
    actor = make_actor(env, model, **SMALL) if inferring else make_actor(env, reads=None, **SMALL)
    policy = TensorDictSequential(model, actor) if inferring else actor
    add_memory(env, policy)
    rollout = drawn(env, policy, 12)
    before, after = rollout[ACTOR_HIDDEN], rollout["next"][ACTOR_HIDDEN]
    assert before.shape == (4, 12, 2, 16)
    fresh = (rollout["step_count"] == 0).squeeze(-1)
    assert fresh.sum() == 4 * 3 and (before[fresh] == 0).all()
    assert (before[~fresh] != 0).any(-1).all()
    assert torch.equal(before[:, 1:][~fresh[:, 1:]], after[:, :-1][~fresh[:, 1:]])


def test_a_stored_rollout_gives_its_own_probabilities_step_by_step_and_in_sequence(skirmish):
    for env in (hunt(), skirmish):
        actor = recurrent_actor(env)
        rollout = drawn(env, actor, 12)
        for recurrent in (False, True):
            data = rollout.exclude("next", ("agents", "logits"), ("agents", "loc"), ("agents", "scale")).clone()
            if recurrent:
                data[ACTOR_HIDDEN][:, 1:] = torch.nan  # read at the first step alone
            with torch.no_grad(), set_recurrent_mode(recurrent):
                found = actor.get_dist(data).log_prob(rollout[k.ACTION])
            torch.testing.assert_close(found, rollout[k.ACTION_LOG_PROB], atol=1e-5, rtol=1e-5)
        with torch.no_grad(), set_recurrent_mode(True):
            actor.get_dist(rollout)
        torch.testing.assert_close(hidden_before(rollout, actor[0]), rollout[ACTOR_HIDDEN], atol=1e-6, rtol=1e-5)


def test_environments_that_end_at_different_times_each_have_their_memory_emptied():
    env = hunt()
    actor = recurrent_actor(env)
    start = env.reset()
    start["step_count"] = torch.tensor([[0], [1], [3], [4]])  # the limit is 5
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        rollout = env.rollout(11, actor, tensordict=start, auto_reset=False, break_when_any_done=False)
    fresh = (rollout["step_count"] == 0).squeeze(-1)
    assert fresh.nonzero().tolist() == [[0, 0], [0, 5], [0, 10], [1, 4], [1, 9], [2, 2], [2, 7], [3, 1], [3, 6]]
    assert (rollout[ACTOR_HIDDEN][fresh] == 0).all() and (rollout[ACTOR_HIDDEN][:, 1:][~fresh[:, 1:]] != 0).any(
        -1
    ).all()
    with torch.no_grad(), set_recurrent_mode(True):
        found = actor.get_dist(rollout.exclude("next")).log_prob(rollout[k.ACTION])
    torch.testing.assert_close(found, rollout[k.ACTION_LOG_PROB], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_a_collector_carries_the_memory_over_its_batches(whole):
    env = hunt()
    actor = recurrent_actor(env)
    collector = Collector(
        env, actor, frames_per_batch=4 * (5 if whole else 3), total_frames=-1, reset_at_each_iter=whole
    )
    batches = [batch.clone() for batch, _ in zip(collector, range(3))]
    collector.shutdown()
    steps = torch.cat([batch["step_count"] for batch in batches], 1).squeeze(-1)
    before = torch.cat([batch[ACTOR_HIDDEN] for batch in batches], 1)
    after = torch.cat([batch["next"][ACTOR_HIDDEN] for batch in batches], 1)
    assert steps[0].tolist() == [step % 5 for step in range(steps.shape[1])]
    assert (before[:, steps[0] == 0] == 0).all()
    going = (steps[0, 1:] > 0).nonzero().flatten()
    assert torch.equal(before[:, 1:][:, going], after[:, :-1][:, going])


def test_the_specs_hold_with_the_memory_and_it_is_added_once():
    env = hunt()
    actor = recurrent_actor(env)
    count = len(env.transform)
    assert add_memory(env, actor) is env and len(env.transform) == count
    check_env_specs(env)
    assert env.observation_spec[ACTOR_HIDDEN].shape == (4, 2, 16)
    plain = hunt()
    count = len(plain.transform)
    assert len(add_memory(plain, make_actor(plain, reads=None)).transform) == count


# ---------------------------------------------------------------------------------------------------------------- uses
def test_an_environment_that_carries_no_memory_is_refused_with_the_fix():
    actor = recurrent_actor(hunt())
    with pytest.raises(UserError, match=r"actor_hidden.*add_memory\(env, policy\)"):
        hunt().rollout(2, actor)


def test_shuffled_steps_are_no_sequence_and_are_refused_with_the_fix():
    env = hunt()
    actor = recurrent_actor(env)
    steps = drawn(env, actor, 12).exclude("next")
    shuffled = steps[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    actor.get_dist(shuffled.clone())  # each step is one of its own
    says = r"rises by 1 or begins again at 0, got \d behind \d .* ChunkMinibatches"
    for data in (shuffled, steps.reshape(-1)[::7]):
        with pytest.raises(UserError, match=says), set_recurrent_mode(True):
            actor.get_dist(data.clone())
    filled = torch.cat([steps, steps[:, -1:], steps[:, -1:]], 1)  # as a chunk is
    with set_recurrent_mode(True):
        actor.get_dist(torch.cat([filled, steps], 1))


def test_memories_of_two_sizes_do_not_share_an_environment():
    env = hunt()
    recurrent_actor(env)
    with pytest.raises(UserError, match=r"\[4, 2, 16\] for another policy.*\[4, 2, 8\]"):
        recurrent_actor(env, hidden_sizes=(8,))


def test_an_unknown_kind_of_memory_lists_the_known_ones():
    for make in (make_actor, make_critic):
        with pytest.raises(UserError, match=r"'lstm'.*Known: none, gru"):
            make(hunt(), recurrent="lstm")


@pytest.mark.parametrize(
    ("inputs", "key"), [(["state"], "critic_hidden"), ([k.OBSERVATION], ("agents", "critic_hidden"))]
)
def test_a_critic_has_one_memory_a_team_where_it_reads_the_same_for_all(inputs, key):
    env = hunt()
    critic = make_critic(env, inputs=inputs, **SMALL)
    data = env.rollout(3, break_when_any_done=False)
    per_agent = () if key == "critic_hidden" else (2,)
    data[key] = torch.zeros(4, 3, *per_agent, 16)
    value = critic(data)[k.STATE_VALUE]
    assert value.shape == (4, 3, 2, 1) and data["next"][key].shape == (4, 3, *per_agent, 16)
    assert (value == value[..., :1, :]).all() == (key == "critic_hidden")
    assert [head.hidden_key for head in memories(critic)] == [key]


def test_an_episode_of_a_recurrent_policy_is_drawn(tmp_path):
    env = make_env("vmas/hunt", num_envs=1, seed=0, max_steps=3)
    model = make_state_model("regressor", env, width=16)
    policy = TensorDictSequential(model, make_actor(env, model, **SMALL))
    episode = record_episode(add_memory(env, policy), policy, tmp_path / "episode.gif", progress=False)
    assert len(episode.state) == 3 and (tmp_path / "episode.gif").exists()


def test_any_batch_shape_is_served_step_by_step():
    env = hunt()
    actor = recurrent_actor(env)
    data = env.rollout(3, break_when_any_done=False)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        whole = actor(data.clone())[k.ACTION]
        flat = actor(data.reshape(-1).clone())[k.ACTION]
        one = actor(data[1, 2].clone())[k.ACTION]
    torch.testing.assert_close(flat.reshape(whole.shape), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one, whole[1, 2], atol=1e-6, rtol=1e-5)
