"""The lean loop of benchmarks/ does the trainer's job: the same advantages, the same input statistics."""

from __future__ import annotations

import pytest
import torch
from benchmark_scripts import load
from small_loss import StateAsValue
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from globediff_torchrl import keys as k
from globediff_torchrl import make_actor, make_env
from globediff_torchrl.envs.vmas.state import read_state
from globediff_torchrl.policies import RunningNorm
from globediff_torchrl.training.config import compose
from globediff_torchrl.training.mappo import Advantages, make_loss


@pytest.fixture
def lean(monkeypatch):
    return load(monkeypatch, "lean_mappo")


def test_the_advantages_equal_the_trainers(lean):
    torch.manual_seed(0)
    value, reward = torch.randn(6, 3, 1), torch.randn(5, 3, 2)  # time first: 5 steps of 3 environments, 2 agents
    last = torch.zeros(3, 5, 1, dtype=torch.bool)
    last[:, -1] = True
    after = {"state": value[1:], "done": last.transpose(0, 1), "truncated": last.transpose(0, 1)}
    after |= {"terminated": torch.zeros(5, 3, 1, dtype=torch.bool), "agents": {"reward": reward.unsqueeze(-1)}}
    batch = TensorDict({"state": value[:-1], "agents": {}, "next": after}, (5, 3)).transpose(0, 1).contiguous()
    critic = TensorDictModule(StateAsValue(), in_keys=["state"], out_keys=[k.STATE_VALUE])
    training = compose("vmas").training
    names = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")
    actor = make_actor(make_env("vmas/hunt", num_envs=2), reads=None)
    loss = make_loss(actor, critic, None, **{name: training[name] for name in names})
    theirs = Advantages(loss)(batch)[k.VALUE_TARGET].squeeze(-1).transpose(0, 1)
    torch.testing.assert_close(lean.gae(reward, value) + value[:-1], theirs)


def test_the_input_statistics_equal_the_trainers(lean):
    torch.manual_seed(0)
    ours, theirs = RunningNorm(3), lean.RunningNorm(3)
    for _ in range(2):
        x = torch.randn(40, 2, 3) * torch.tensor([2.0, 0.1, 0.0]) + 5
        ours.update(x)
        theirs.update(x)
    torch.testing.assert_close(theirs(x), ours(x))


@pytest.mark.parametrize("name", ["hunt", "relay", "trilateration", "gates"])
def test_the_tasks_are_those_of_the_presets(lean, name):
    task = make_env(f"vmas/{name}", num_envs=2, aux=None).task
    scenario, kwargs, hidden, steps = lean.TASKS[name]
    assert steps == task.max_steps
    simulator = lean.vmas.make_env(scenario(), 2, "cpu", max_steps=None, seed=0, **kwargs)
    layout = task.observation_layout
    names = {feature.removeprefix("agents.") for feature in task.hidden}
    assert [layout.slices[feature] for feature in names] == ([hidden] if hidden.stop else [])
    torch.testing.assert_close(lean.true_state(simulator), read_state(simulator, name))


def test_the_settings_are_those_of_the_configuration(lean):
    ours = {"gamma": lean.GAMMA, "lmbda": lean.LAMBDA, "lr": lean.LR, "critic_lr": lean.LR, "final_lr": lean.FINAL_LR}
    ours |= {"clip_epsilon": lean.CLIP, "max_grad_norm": lean.MAX_GRAD_NORM}
    training = compose("vmas").training
    assert ours == {name: training[name] for name in ours}


def test_the_value_clip_takes_no_move_of_the_norm_for_one_of_the_critic(lean):
    """The critic outputs 0, the mean of the standardised targets: the gradient of an unclipped loss is 0."""
    torch.manual_seed(0)
    actor, critic, norm = lean.Actor(4, 2), nn.Linear(1, 1), lean.RunningNorm(1)
    nn.init.zeros_(critic.weight)
    nn.init.zeros_(critic.bias)
    data = lean.Data(5, 3, 1, 2, 1, 2, "cpu")
    data.reward += 7 + torch.randn_like(data.reward)
    optimizer = torch.optim.SGD(critic.parameters(), lr=1.0)
    lean.update(actor, critic, norm, optimizer, data, epochs=1, minibatches=1)
    assert norm.mean > 7 and critic.bias.abs() < 1e-5


@pytest.mark.parametrize(("lr", "expected"), [(0.2, 0.2), (1.0, 0.5)])
def test_the_value_clip_lets_a_small_move_go_on_and_holds_a_large_one(lean, lr, expected):
    """The gradient's norm is .5, so each of two steps moves the value by lr / 2, if it is not held beyond .2."""
    actor, critic, norm = lean.Actor(4, 2), nn.Linear(1, 1), lean.RunningNorm(1)
    nn.init.zeros_(critic.weight)
    nn.init.zeros_(critic.bias)
    norm.update(torch.tensor([-1.0, 1.0]).repeat(5_000).unsqueeze(-1))  # the target stays far above the value
    data = lean.Data(1, 2, 1, 2, 1, 2, "cpu")
    data.reward += 7
    optimizer = torch.optim.SGD(critic.parameters(), lr=lr)
    lean.update(actor, critic, norm, optimizer, data, epochs=2, minibatches=1)
    assert critic.bias.item() == pytest.approx(expected, rel=1e-4)
