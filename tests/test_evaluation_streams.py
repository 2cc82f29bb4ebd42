"""What fits and evaluations leave of CUDA's random numbers, by a stand-in that torch.manual_seed seeds, too."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from globediff_torchrl import GlobeDiff, fit
from globediff_torchrl.envs import make_env, preserve_vmas_rng
from globediff_torchrl.training.rollouts import make_evaluator
from globediff_torchrl.training.video import write_video


@pytest.fixture
def cuda(monkeypatch):
    """The generator of the only device, in use and somewhere in its stream."""
    generator = torch.Generator().manual_seed(7)
    torch.rand(3, generator=generator)
    standins = {
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "manual_seed_all": generator.manual_seed,
        "get_rng_state": lambda device: generator.get_state(),
        "set_rng_state": lambda state, device: generator.set_state(state),
        "get_rng_state_all": lambda: [generator.get_state()],
        "set_rng_state_all": lambda states: generator.set_state(*states),
    }
    for name, standin in standins.items():
        monkeypatch.setattr(torch.cuda, name, standin)
    return generator


def test_the_generators_of_cuda_are_given_back_also_after_an_error(cuda):
    before = cuda.get_state()
    with pytest.raises(ZeroDivisionError), preserve_vmas_rng():
        make_env("vmas/hunt", num_envs=2, seed=1_000)
        assert cuda.initial_seed() == 1_000, "VMAS seeds no CUDA generator: the stand-in is of no use"
        raise ZeroDivisionError
    assert torch.equal(cuda.get_state(), before)


def test_a_world_that_draws_in_its_observations_leaves_torchs_stream_alone():
    """Or the training would draw other actions behind the making of an environment to evaluate on."""
    before = torch.get_rng_state()
    with preserve_vmas_rng():
        env = make_env("vmas/line_trajectory", num_envs=2, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    agent = env.base_env.agents[0]
    env.base_env.scenario.observation(agent)
    assert not torch.equal(torch.get_rng_state(), before), "it draws nothing: the test is of no use"


@pytest.mark.parametrize("measure", [lambda trainer: make_evaluator(trainer)(False), write_video])
def test_a_trainings_evaluations_leave_the_cuda_stream_of_the_training_alone(cuda, fast_trainer, measure):
    trainer = fast_trainer("mappo", iterations=1)
    before = cuda.get_state()
    measure(trainer)
    assert torch.equal(cuda.get_state(), before)


def worlds():
    with preserve_vmas_rng():
        make_env("vmas/hunt", num_envs=2, seed=1_000)


def fitted():
    data = TensorDict({("agents", "aux_observation"): torch.randn(64, 2, 3), "state": torch.randn(64, 4)}, [64])
    fit(GlobeDiff(3, 4, preset="fast", width=16), data, steps=2, batch_size=8, validation=data, progress=False)


@pytest.mark.filterwarnings("error:CUDA reports")
@pytest.mark.parametrize("what", [worlds, fitted, "training"])
def test_cuda_that_is_not_used_is_not_begun_and_will_start_with_the_callers_seed(cuda, monkeypatch, fast_trainer, what):
    def begun(*_):
        raise AssertionError("asking for a state initialises CUDA")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, begun)
    if what == "training":
        fast_trainer("globediff", iterations=1).train()
        return
    torch.manual_seed(3)
    what()
    assert cuda.initial_seed() == 3


def test_a_fit_leaves_the_stream_of_cuda_alone(cuda):
    before = cuda.get_state()
    fitted()
    assert torch.equal(cuda.get_state(), before)
