"""The mean distance of two samples, and distances far from zero; the rest is in test_state_distances.py."""

import math

import pytest
import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.evaluation.distances import energy_distance, mean_pair_distance


def test_the_mean_pair_distance_counts_no_sample_against_itself():
    assert mean_pair_distance(torch.tensor([[0.0], [1.0], [5.0]])).item() == pytest.approx((1 + 5 + 4) / 3)


@pytest.mark.parametrize("samples", [2, 5, 40])
def test_the_mean_pair_distance_of_unit_gaussians_has_its_closed_form_whatever_their_number(samples):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(200_000 // samples, samples, 1, generator=g)
    assert mean_pair_distance(a).mean().item() == pytest.approx(2 / math.sqrt(math.pi), abs=0.01)


def test_one_sample_has_no_pair():
    with pytest.raises(UserError, match="at least 2"):
        mean_pair_distance(torch.zeros(3, 1, 2))


def test_the_energy_distance_does_not_depend_on_where_the_samples_lie():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 2, generator=g).round(decimals=1), torch.randn(50, 2, generator=g).round(decimals=1) + 1
    # 4096 leaves twelve bits of a float for what lies behind the point
    assert energy_distance(a + 4096, b + 4096).item() == pytest.approx(energy_distance(a, b).item(), rel=1e-2)
