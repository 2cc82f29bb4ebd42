"""Single numbers of the value norm, the studies and the policies, against answers worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from globediff_torchrl import keys as k
from globediff_torchrl import make_actor, make_env
from globediff_torchrl.policies.networks import make_trunk
from globediff_torchrl.studies.hidden_enemies import _of_the_living
from globediff_torchrl.studies.probe import infer_rows
from globediff_torchrl.training.mappo import Advantages, BatchValueNorm


def test_the_value_norm_has_the_mean_of_the_living_where_some_are_dead():
    active = torch.tensor([[[True], [False]], [[False], [True]], [[False], [False]]])
    norm, zeros = BatchValueNorm(shape=1), torch.zeros(active.shape)
    values = {k.ADVANTAGE: zeros, k.STATE_VALUE: zeros, k.VALUE_TARGET: torch.where(active, 3.0, 1e3)}
    loss = SimpleNamespace(value_norm=norm, value_estimator=lambda batch: batch.update(values))
    Advantages(loss)(TensorDict({k.ACTIVE_MASK: active}, [3]))
    torch.testing.assert_close(norm.denormalize(torch.zeros(1)), torch.tensor([3.0]), rtol=1e-4, atol=0)


def test_the_health_of_the_unhurt_counts_not_among_that_of_the_hurt():
    truth = torch.tensor([0.2, 0.6, 1.0, 1.0])
    kind = torch.eye(4)
    found = _of_the_living(torch.tensor([0.2, 0.6, 0.0, 0.0]), truth, kind, kind, torch.arange(4))
    assert found["hurt"] == pytest.approx(1) and found["hp"] < 0.5


def test_an_estimate_is_what_the_model_calls_its_mean_and_not_that_of_its_samples():
    class Both(nn.Module):
        aux_key = k.AUX_OBSERVATION

        def forward(self, td):
            shape = (*td.batch_size, 1, 2)
            return td.update({k.INFERRED_MEAN: torch.full(shape, 5.0), k.HYPOTHESES: torch.zeros(*shape[:2], 3, 2)})

    estimate, samples = infer_rows(Both(), torch.zeros(4, 1))
    assert estimate.unique().tolist() == [5.0] and samples.unique().tolist() == [0.0]


@pytest.mark.parametrize(("log_scale", "expected"), [(-3.0, -3.0), (-9.0, -5.0), (9.0, 2.0)])
def test_the_spread_of_actions_is_bounded_between_e_to_the_minus_5_and_e_to_the_2(log_scale, expected):
    env = make_env("vmas/hunt", num_envs=2)
    actor = make_actor(env, reads=None, hidden_sizes=(8,))
    (parameter,) = (value for name, value in actor.named_parameters() if name.endswith("log_scale"))
    nn.init.constant_(parameter, log_scale)
    scale = actor(env.reset())["agents", "scale"]
    torch.testing.assert_close(scale, torch.full_like(scale, math.exp(expected)))


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 5 / 3), ("relu", math.sqrt(2)), ("gelu", 1.0)])
def test_hidden_weights_are_orthogonal_with_the_gain_of_their_activation(activation, gain):
    (layer,) = (part for part in make_trunk(8, (8,), activation=activation) if isinstance(part, nn.Linear))
    torch.testing.assert_close(layer.weight @ layer.weight.T, gain**2 * torch.eye(8), atol=1e-5, rtol=0)
