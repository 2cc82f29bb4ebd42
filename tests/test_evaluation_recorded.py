"""Recorded episodes: x as the environment builds it, whole episodes alone, and the memory of each agent's past."""

import pytest
import torch
from tensordict import TensorDict

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs.auxiliary import FrameMemory, joint
from globediff_torchrl.errors import UserError
from globediff_torchrl.studies.episode_memory import EpisodeMemory, fit_memory, padded, remember
from globediff_torchrl.studies.recorded import Reads, Recorded, record_episodes, whole_episodes

ACTIONS, LIMIT = 10, 101


def battles(lengths, seed=0):
    """Steps of made-up episodes of five agents."""
    g = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    step = torch.cat([torch.arange(length) for length in lengths])
    action = torch.randint(ACTIONS, (total, 5), generator=g)
    data = {
        "observation": torch.randn(total, 5, 92, generator=g),
        "last_action": torch.where(step[:, None] == 0, -1, action),
        "alive": torch.rand(total, 5, generator=g) < 0.8,
        "relative": torch.randn(total, 5, 40, generator=g),
        "absolute": torch.randn(total, 100, generator=g),
        "step": step,
        "episode": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
    }
    return Recorded(data, ACTIONS, LIMIT)


@pytest.mark.parametrize("reads", [Reads(history=3), Reads(history=3, join=True), Reads(actions=False)])
def test_x_is_that_of_the_environment(reads):
    data = battles([7, 2, 6])
    memory, expected = FrameMemory(reads.history, differences=True), []
    for frame, step in zip(data.frames if reads.actions else data.frames[..., :92], data.step.tolist()):
        frames = memory.restart(frame, None) if step == 0 else memory.push(frame)
        frames = joint(frames) if reads.join else frames
        expected.append(torch.cat([frames, torch.eye(5)], -1))
    rows = torch.cartesian_prod(torch.arange(15), torch.arange(5))
    torch.testing.assert_close(data.x(reads, rows), torch.stack(expected).flatten(0, 1))


def test_x_of_the_time_is_the_share_of_the_limit():
    rows = torch.tensor([[0, 0], [6, 4], [8, 1]])
    torch.testing.assert_close(battles([7, 2]).x("time", rows), torch.tensor([[0.0], [6 / 101], [1 / 101]]))


def test_an_x_that_is_not_there_is_refused():
    rows = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(UserError, match="remember"):
        battles([3]).x("memory", rows)
    with pytest.raises(UserError, match="'tme'"):
        battles([3]).x("tme", rows)


def test_rows_are_of_living_agents_and_targets_of_step_and_agent():
    data = battles([7, 2, 6])
    rows = data.until(2)
    assert data.alive[rows[:, 0], rows[:, 1]].all() and rows[:, 0].max() == 8
    assert len(rows) == data.alive[:9].sum()
    torch.testing.assert_close(data.target("relative", rows), data.data["relative"][:9][data.alive[:9]])
    torch.testing.assert_close(data.target("absolute", rows), data.data["absolute"][rows[:, 0]])


def test_only_episodes_that_ended_within_and_did_not_crash_are_kept():
    steps = TensorDict({"value": torch.arange(20).view(2, 10)}, [2, 10])
    done, crashed = torch.zeros(2, 2, 10, 1, dtype=torch.bool)
    done[0, [2, 6]] = done[1, [4, 9]] = True
    plain = whole_episodes(steps, TensorDict({"next": {"done": done}}, [2, 10]))
    assert [piece["value"].tolist() for piece in plain] == [[0, 1, 2], [3, 4, 5, 6], [*range(10, 15)], [*range(15, 20)]]
    crashed[0, 6] = True
    guarded = whole_episodes(steps, TensorDict({"next": {"done": done, "crashed": crashed}}, [2, 10]))
    assert [piece["value"].tolist() for piece in guarded] == [[0, 1, 2], [*range(10, 15)], [*range(15, 20)]]


def test_recorded_episodes_are_whole_and_as_many_as_asked_for():
    env = make_env("vmas/hunt", num_envs=4, seed=100)

    def read(td):
        return td.select(keys.STATE, keys.STEP_COUNT).clone()

    steps = record_episodes(env, env.rand_action, read, 5, seed=100)
    length = env.task.max_steps
    assert steps["episode"].tolist() == [k for k in range(5) for _ in range(length)]
    assert steps["step_count"].flatten().tolist() == [*range(length)] * 5
    assert len(steps["state"].view(5, length, -1)[:, 0].unique(dim=0)) == 5  # five different ones


def test_the_memory_is_of_each_agents_own_past_and_of_no_other_episode():
    model, data, changed = EpisodeMemory(107, 40), battles([4, 9, 5]), battles([4, 9, 5])
    changed.frames[8, 2] += 1  # step 4 of the second episode, agent 2
    for some in (data, changed):
        remember(model, some)
    differs = (data.memory != changed.memory).any(-1)
    assert differs[8:13, 2].all() and differs.sum() == 5
    alone = model.read(torch.cat([data.frames[4:13, 3], torch.eye(5)[3].expand(9, 5)], -1))
    torch.testing.assert_close(data.memory[4:13, 3], alone)
    rows = torch.tensor([[12, 3]])
    torch.testing.assert_close(data.x("memory", rows)[0, :128], alone[-1])


def test_padded_steps_and_dead_agents_do_not_count():
    data = battles([4, 9])
    frames, steps, mask = padded(data, torch.tensor([0, 1]))
    assert frames.shape == (2, 5, 9, 107)
    assert steps.tolist() == [[0, 1, 2, 3, -1, -1, -1, -1, -1], [*range(4, 13)]]
    assert mask.sum() == data.alive.sum() and not mask[0, :, 4:].any()


def test_a_fitted_memory_knows_what_only_the_first_step_showed():
    data = battles([6] * 60)
    start = data.frames[data.first, :, :1].sign()  # the sign of a number of the first frame
    data.data["relative"] = start
    data.data["relative"] = 1e-9 * start  # in whichever unit
    model = fit_memory(data, "relative", episodes=60, seed=0, steps=120)
    frames, _, _ = padded(data, torch.arange(60))
    told = model(frames)[:, :, -1].squeeze(-1).sign()  # at the last step
    truth = start.view(60, 6, 5)[:, -1]
    assert (told == truth).float().mean() > 0.9
