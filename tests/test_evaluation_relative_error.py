"""The error of the inferred state as a share of the mean predictor's: over rounds, and in any unit."""

from __future__ import annotations

import pytest
import torch
from recorded_env import Recorded
from tensordict import TensorDict

from globediff_torchrl.evaluation.episodes import evaluate, state_errors
from globediff_torchrl.evaluation.relative_error import RelativeError, relative_error


def episodes(count: int, steps: int = 5):
    """Of two agents, one of them dead now and then. The state: a fact of the episode and a walk; the first is answered
    by its mean 0, the second is noisy; a third number is one of the first half of the episodes and another after."""
    g = torch.Generator().manual_seed(0)
    fact = torch.randn(count, 1, 1, generator=g).expand(-1, steps, -1)
    walk = torch.randn(count, steps, 1, generator=g).cumsum(1) + 3
    half = (torch.arange(count) >= count // 2).float().view(count, 1, 1).expand(-1, steps, -1)
    state = torch.cat([fact, walk, half], -1)
    answer = torch.cat([0 * fact, walk, 0 * half + 0.5], -1).unsqueeze(2).expand(-1, -1, 2, -1)
    noise = torch.randn(count, steps, 2, 1, generator=g)
    team = {
        "inferred_state": answer + noise,
        "inferred_mean": answer,
        "active_mask": torch.rand(count, steps, 2, 1, generator=g) < 0.8,
    }
    done = torch.zeros(count, steps, 1, dtype=torch.bool)
    done[:, -1] = True
    rewards = TensorDict({"episode_reward": torch.zeros(count, steps, 2, 1)}, (count, steps, 2))
    after = {"done": done, "agents": rewards}
    given = {"state": state, "agents": TensorDict(team, (count, steps, 2)), "next": TensorDict(after, (count, steps))}
    return TensorDict(given, (count, steps))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_rounds_have_the_error_of_all_their_episodes_at_once(size):
    whole = episodes(32)
    rounds = Recorded(dict(enumerate(whole.split(size))))
    at_once = evaluate(Recorded({0: whole}), None, seed=0, max_steps=5, modes=("stochastic",))
    apart = evaluate(rounds, None, seed=0, max_steps=5, modes=("stochastic",), rounds=32 // size)
    assert apart == pytest.approx(at_once, rel=1e-5) and set(apart) == set(at_once)
    # the fact and the half are answered by their mean, about 1 each, the walk as it is
    assert apart["stochastic/state_error_mean"] == pytest.approx(2 / 3, abs=0.06)


def test_the_error_of_one_round_is_the_formula():
    whole = episodes(16)
    alive, inferred = whole["agents", "active_mask"].squeeze(-1), whole["agents", "inferred_state"]
    state = whole["state"].unsqueeze(2).expand_as(inferred)[alive]
    expected = ((inferred[alive] - state).square().mean(0) / state.var(0, correction=0)).mean()
    assert state_errors(whole)["state_error_sample"] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("unit", [1e-9, 1e-7, 1e-5, 1e5])
def test_the_error_does_not_depend_on_the_unit(unit):
    whole = episodes(16)
    rescaled = whole.clone()
    for key in ("state", ("agents", "inferred_state"), ("agents", "inferred_mean")):
        rescaled[key] = whole[key] * unit
    assert state_errors(rescaled) == pytest.approx(state_errors(whole), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-6, 12345.678])
def test_a_number_that_is_always_the_same_does_not_count(value):
    state = torch.full((1000, 1, 1), value)
    assert relative_error(state + 1, state) is None
    varying = torch.cat([state, torch.arange(1000.0).view(-1, 1, 1)], -1)
    assert relative_error(varying + 1, varying) == pytest.approx(12 / (1000**2 - 1))


def test_rows_of_the_dead_alone_change_nothing():
    state, dead = torch.arange(4.0).view(4, 1, 1), torch.zeros(4, 1, 1, dtype=torch.bool)
    error = RelativeError()
    error.add(state, state, dead)
    assert error.value() is None
    error.add(state + 1, state)
    error.add(state + 100, state + 50, dead)
    assert error.value() == pytest.approx(1 / 1.25)
