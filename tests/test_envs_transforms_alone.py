"""The exported transforms by themselves: around any environment, on recorded data, and copied."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from skirmish import Skirmish
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ListStorage, TensorDictReplayBuffer
from torchrl.data.tensor_specs import Bounded
from torchrl.envs import Compose, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs import (
    ActiveMask,
    AgentId,
    AuxObservation,
    HideFeatures,
    JointObservation,
    LastAction,
    ObservationHistory,
    TimeFraction,
    wrap_env,
)
from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import ACTION, AUX_OBSERVATION, OBSERVATION, STEP_COUNT


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_bounds_of_what_is_hidden_are_widened_to_zero_and_no_others(dtype):
    class Positive(Skirmish):
        """Observations of 1 to 9."""

        def __init__(self):
            super().__init__()
            spec = self.observation_spec.clone()
            spec[OBSERVATION] = Bounded(1, 9, (6, 3, 2), dtype=dtype)
            self.observation_spec = spec

        def _observe(self):
            out = super()._observe()
            return out.set(OBSERVATION, (out[OBSERVATION].abs() + 1).clamp(max=9).to(dtype))

    env = TransformedEnv(Positive(), HideFeatures(torch.tensor([[True, False], [True, True], [False, True]])))
    check_env_specs(env)
    space = env.observation_spec[OBSERVATION].space
    assert space.low[0].tolist() == [[1, 0], [1, 1], [0, 1]] and (space.high == 9).all()
    check_env_specs(wrap_env(Positive(), no_op=0, hide=["agent.f1"]))


STATELESS = {
    "joint": JointObservation,
    "hide": partial(HideFeatures, torch.tensor([[True, False], [True, True], [False, True]])),
    "id": AgentId,
    "active": partial(ActiveMask, no_op=0),
    "time": partial(TimeFraction, 5),
}


def recorded(*transforms):
    """Nine steps of three battles with two ends, the same at each call."""
    torch.manual_seed(0)
    return TransformedEnv(Skirmish(3), Compose(StepCounter(4), *transforms)).rollout(9, break_when_any_done=False)


@pytest.mark.parametrize("name", STATELESS)
def test_a_transform_without_a_memory_writes_into_recorded_data_what_it_writes_in_an_environment(name):
    create = STATELESS[name]
    expected, key = recorded(create()), create().out_keys[0]
    found = create()(recorded())
    assert torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype
    assert torch.equal(Compose(create())(recorded())[key], expected[key])


@pytest.mark.parametrize("name", STATELESS)
@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage, ListStorage])
def test_it_serves_a_replay_buffer(name, storage):
    create = STATELESS[name]
    plain, key = recorded().reshape(-1), create().out_keys[0]
    buffer = TensorDictReplayBuffer(storage=storage(27), transform=create(), batch_size=27)
    buffer.extend(plain)
    sample = buffer.sample()
    assert torch.equal(sample[key], recorded(create()).reshape(-1)[key][sample["index"]])
    stored = torch.stack([buffer.storage[row][OBSERVATION] for row in range(27)])
    assert torch.equal(stored, plain[OBSERVATION])  # it stays as it is


@pytest.mark.parametrize("name", ["joint", "time"])
def test_recorded_data_without_what_it_reads_are_refused(name):
    with pytest.raises(UserError, match=r"expects .* in the data, got \[.*'state'.*\]: record it"):
        STATELESS[name]()(recorded().exclude(OBSERVATION, STEP_COUNT))


@pytest.mark.parametrize(
    "create", [ObservationHistory, AuxObservation, lambda: LastAction(Skirmish(3).full_action_spec[ACTION])]
)
def test_what_reads_the_step_before_refuses_recorded_data(create):
    with pytest.raises(UserError, match=r"expects the steps of an env.*got .* shape \[3, 9\]: put it around the env"):
        create()(recorded())


def played(*envs):
    """What each of the environments gives as x, stepped in turns."""
    readings = [env.reset() for env in envs]
    x = [[reading[AUX_OBSERVATION]] for reading in readings]
    for action in (1, 2, 3, 1):
        for at, env in enumerate(envs):
            readings[at] = env.step(readings[at].set(ACTION, torch.full((2, 3), action)))["next"]
            x[at].append(readings[at][AUX_OBSERVATION])
    return [torch.stack(values) for values in x]


@pytest.mark.parametrize(
    "create", [ObservationHistory, lambda: Compose(LastAction(Skirmish(2).full_action_spec[ACTION]), AuxObservation())]
)
@pytest.mark.parametrize("begun", [True, False])
def test_the_clone_of_a_history_goes_its_own_way(create, begun):
    def seeded(seed, transform):
        env = TransformedEnv(Skirmish(2), transform)
        env.set_seed(seed)
        return env

    expected = [played(seeded(seed, create()))[0] for seed in (1, 2)]
    transform = create()
    one = seeded(1, transform)
    if begun:
        one.rollout(3)
        one.set_seed(1)
    for found, wanted in zip(played(one, seeded(2, one.transform.clone())), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_clone_begins_with_what_its_original_remembers():
    history = ObservationHistory(1)
    frames = history.memory.push(torch.ones(2, 3, 1, requires_grad=True))
    twin = history.clone()
    twin.memory.push(torch.zeros(2, 3, 1))
    assert twin.memory.frames[0, 0].tolist() == [0, 1] and torch.equal(history.memory.frames, frames)
