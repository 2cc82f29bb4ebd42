"""Who has a task: one environment, whatever is around it; bare ones and several copies are refused, not asked."""

from __future__ import annotations

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torchrl.envs import ParallelEnv, RewardScaling, SerialEnv, StepCounter, TransformedEnv

from globediff_torchrl import (
    GlobeDiff,
    UserError,
    evaluate,
    make_actor,
    make_critic,
    make_env,
    record_episode,
    wrap_env,
)
from globediff_torchrl.envs.vmas import StateVmasEnv, scenarios
from globediff_torchrl.policies import add_memory
from globediff_torchrl.task import task_of


def hunt():
    return make_env("vmas/hunt", num_envs=2, max_steps=4)


def bare():
    return StateVmasEnv(scenarios.Hunt(), scenario_name="hunt", num_envs=2)


def recurrent():
    return make_actor(hunt(), reads=None, recurrent="gru")


def plain():
    return make_actor(hunt(), reads=None)


CALLS = {
    "from_env": lambda env, _: GlobeDiff.from_env(env, tokens="entity"),
    "make_actor": lambda env, _: make_actor(env),
    "make_critic": lambda env, _: make_critic(env),
    "evaluate": lambda env, _: evaluate(env, plain(), seed=1),
    "evaluate of few steps": lambda env, _: evaluate(env, plain(), seed=1, max_steps=2),
    "record_episode": lambda env, here: record_episode(env, plain(), here / "x.png", step=1, max_steps=2),
    "add_memory": lambda env, _: add_memory(env, recurrent()),
}
OTHERS = {
    "SerialEnv": lambda: SerialEnv(2, hunt),
    "ParallelEnv": lambda: ParallelEnv(2, hunt),
    "TransformedEnv of a SerialEnv": lambda: TransformedEnv(SerialEnv(2, hunt), StepCounter()),
    "StateVmasEnv": bare,
}


@pytest.mark.parametrize("env", OTHERS)
@pytest.mark.parametrize("call", CALLS)
def test_whoever_needs_a_task_says_so_before_anything_runs(tmp_path, monkeypatch, call, env):
    other = OTHERS[env]()
    monkeypatch.setattr(type(other), "rollout", lambda *_, **__: pytest.fail("it was rolled out"))
    for copies in (SerialEnv, ParallelEnv):
        monkeypatch.setattr(copies, "start", lambda *_, **__: pytest.fail("workers were started"))
    with pytest.raises(UserError) as caught:
        CALLS[call](other, tmp_path)
    got = "StateVmasEnv" if env == "StateVmasEnv" else f"several copies in a {env.split()[-1]}"
    fix = (
        "of several copies pass one"
        if call in ("from_env", "make_actor", "make_critic")
        else "make_env(..., num_envs=n)"
    )
    said = str(caught.value)
    expected = f"{call.split()[0]} expects one environment with a `task` (make_env and wrap_env give one), got {got}: "
    assert said.startswith(expected) and fix in said, said


def test_copies_that_have_begun_are_refused_too():
    env = SerialEnv(2, hunt)
    env.reset()
    with pytest.raises(UserError, match="several copies in a SerialEnv"):
        evaluate(env, plain(), seed=1)


def test_an_environment_with_transforms_around_it_and_copies_within_it_has_its_task():
    inner, halved = hunt(), RewardScaling(0.0, 0.5, in_keys=[("agents", "reward")])
    assert task_of(TransformedEnv(inner, halved, auto_unwrap=False), "x") is inner.task
    env = wrap_env(SerialEnv(2, bare), max_steps=4, name="copies")
    assert task_of(TransformedEnv(env, StepCounter(), auto_unwrap=False), "x").name == "copies"


@pytest.mark.parametrize("copies", [SerialEnv, ParallelEnv])
def test_copies_that_were_wrapped_are_not_wrapped_again(monkeypatch, copies):
    monkeypatch.setattr(copies, "start", lambda *_, **__: pytest.fail("workers were started"))
    message = rf"not wrapped before, got ones in a {copies.__name__} that give .*agent_id.*num_envs=n\), or wrap n bare"
    with pytest.raises(UserError, match=message):
        wrap_env(copies(2, hunt), max_steps=4)


def test_what_the_error_advises_works():
    env = wrap_env(SerialEnv(2, bare), max_steps=4)
    model = GlobeDiff.from_env(env, preset="fast", width=16)
    policy = TensorDictSequential(model, make_actor(env, model, recurrent="gru"))
    assert add_memory(env, policy).rollout(3, policy).shape == (2, 2, 3)
    assert torch.isfinite(torch.tensor(evaluate(env, policy, seed=1)["deterministic/return"]))
