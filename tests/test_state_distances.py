"""Distances between samples, on cases with known answers."""

import math

import pytest
import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.studies.distances import energy_distance, wasserstein2
from globediff_torchrl.studies.known_posteriors import PROBLEMS


def test_energy_distance_of_two_points_is_twice_their_distance():
    assert energy_distance(torch.zeros(4, 2), torch.tensor([3.0, 4.0]).expand(4, 2)).item() == pytest.approx(10)


def test_energy_distance_of_unit_gaussians_has_the_closed_form():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 500, 1, generator=g), torch.randn(40, 500, 1, generator=g) + 1

    def folded(mean, variance):  # E|N(mean, variance)|
        scale = math.sqrt(variance)
        return scale * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * math.erf(
            mean / math.sqrt(2 * variance)
        )

    assert energy_distance(a, b).mean().item() == pytest.approx(2 * folded(1, 2) - 2 * folded(0, 2), abs=0.03)
    assert energy_distance(a, b - 1).mean().item() == pytest.approx(0, abs=0.01)  # unbiased


def test_wasserstein_of_a_shift_is_its_square_a_dimension():
    a = torch.randn(3, 50, 4)
    shift = torch.tensor([1.0, 0.0, 2.0, 0.0])
    torch.testing.assert_close(wasserstein2(a, a + shift), torch.full((3,), 5 / 4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(wasserstein2(a, a[:, torch.randperm(50)]), torch.zeros(3), atol=1e-6, rtol=0)


def test_samples_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match="got"):
        energy_distance(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(UserError, match="at least 2"):
        energy_distance(torch.zeros(1, 2), torch.zeros(4, 2))
    with pytest.raises(UserError, match="one size"):
        wasserstein2(torch.zeros(3, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_samples_of_a_problem_are_at_distance_zero_of_each_other(name):
    problem, g = PROBLEMS[name](), torch.Generator().manual_seed(0)
    x = problem.draw_aux(16, g).repeat_interleave(100, 0)
    a, b = (problem.draw_state(x, g).view(16, 100, -1) for _ in range(2))
    mean = a.mean(1, keepdim=True).expand_as(a)
    assert abs(energy_distance(a, b).mean()) < 0.02 * energy_distance(mean, b).mean()
