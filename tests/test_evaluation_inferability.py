"""Measures of inferability against closed forms."""

import math

import pytest
import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.studies.distances import energy_distance, mean_pair_distance
from globediff_torchrl.studies.inferability import (
    accuracy,
    coverage,
    energy_score,
    episode_error,
    r_squared,
    r_squared_error,
    spread_over_error,
)


def posterior(rows: int, samples: int, scale: float = 1.0, shift: float = 0.0):
    """Samples ``[M, S, 2]`` and truths from N(mean, .5^2), the samples' spread scaled and their mean shifted."""
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(rows, 1, 2, generator=g)
    truth = mean[:, 0] + 0.5 * torch.randn(rows, 2, generator=g)
    return mean + shift + scale * 0.5 * torch.randn(rows, samples, 2, generator=g), truth


def test_r_squared_of_truth_mean_and_half_the_way_between():
    truth = torch.tensor([0.0, 1.0, 5.0])
    assert r_squared(truth, truth) == 1
    assert r_squared(truth.mean().expand(3), truth) == pytest.approx(0)
    assert r_squared((truth + truth.mean()) / 2, truth) == pytest.approx(0.75)
    assert r_squared(truth + 10, truth) < 0


def test_r_squared_of_a_noisy_linear_fact_is_its_share_of_the_variance():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 20_000, generator=g)
    assert r_squared(3 * x, 3 * x + noise) == pytest.approx(9 / 10, abs=0.01)


def test_accuracy_of_unequal_shapes_is_refused():
    with pytest.raises(UserError, match="one shape"):
        accuracy(torch.zeros(4, 2), torch.zeros(4))


def test_what_does_not_vary_has_no_r_squared():
    assert math.isnan(r_squared(torch.zeros(3), torch.ones(3)))
    assert math.isnan(r_squared(torch.zeros(0), torch.zeros(0)))


def test_accuracy_counts_the_largest_score():
    one_hot = torch.eye(4)
    assert accuracy(one_hot - 3, one_hot) == 1
    assert accuracy(one_hot.roll(1, 0), one_hot) == 0
    assert accuracy(torch.tensor([[0.3, 0.2, 0, 0], [0.3, 0.2, 0, 0]]), one_hot[:2]) == 0.5


@pytest.mark.parametrize("samples", [2, 8, 64])
@pytest.mark.parametrize("scale", [0.28, 1.0, 2.0])
def test_spread_over_error_is_the_factor_by_which_samples_spread_whatever_their_number(samples, scale):
    assert spread_over_error(*posterior(40_000, samples, scale)) == pytest.approx(scale, rel=0.03)


def test_a_wrong_mean_lowers_spread_over_error():
    # error^2 = .5^2 + 1
    assert spread_over_error(*posterior(40_000, 32, shift=1.0)) == pytest.approx(math.sqrt(0.25 / 1.25), rel=0.02)


@pytest.mark.parametrize("unit", [1e-9, 1e-7, 1e5])
def test_spread_over_error_does_not_depend_on_the_unit(unit):
    samples, truth = posterior(100, 4)
    assert spread_over_error(unit * samples, unit * truth) == pytest.approx(spread_over_error(samples, truth), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-8, 1e5])
def test_samples_that_are_all_the_truth_have_no_spread(value):
    samples, truth = torch.full((5, 10, 2), value).double(), torch.full((5, 2), value).double()
    assert spread_over_error(samples, truth) == 0
    rounded = samples * (1 + 1e-9 * (torch.arange(10).double() % 2)).unsqueeze(-1)
    assert spread_over_error(rounded, truth) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("samples", [19, 32, 64])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_exact_samples_cover_what_they_promise_whatever_their_number(samples, level):
    assert coverage(*posterior(20_000, samples), level) == pytest.approx(level, abs=0.006)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_coverage_of_samples_too_narrow_or_wide_is_that_of_the_gaussian(scale):
    inside = math.erf(1.6449 * scale / math.sqrt(2))
    assert coverage(*posterior(20_000, 400, scale)) == pytest.approx(inside, abs=0.01)


def test_the_energy_score_of_a_unit_gaussian_has_its_closed_form():
    g = torch.Generator().manual_seed(0)
    samples, truth = torch.randn(20_000, 4, 1, generator=g), torch.randn(20_000, 1, generator=g)
    # E|A - B| = 2 / sqrt(pi) of two unit Gaussians; four samples, for a bias that falls with their number would show
    assert energy_score(samples, truth) == pytest.approx(1 / math.sqrt(math.pi), abs=0.015)


def test_the_energy_score_is_best_for_exact_samples_and_a_point_has_its_distance():
    exact, truth = posterior(4_000, 16)
    best = energy_score(exact, truth)
    assert all(best < energy_score(*posterior(4_000, 16, scale)) for scale in (0.3, 2.0))
    assert best < energy_score(exact.mean(1, keepdim=True), truth)
    point = torch.tensor([[[3.0, 4.0]]])
    assert energy_score(point, torch.zeros(1, 2)) == 5


def test_the_energy_score_of_two_samples_is_that_of_the_hand():
    # E|S - t| = (1 + 3) / 2, E|S - S'| = 2
    assert energy_score(torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 1)) == pytest.approx(2 - 2 / 2)


def test_the_energy_score_over_truths_is_half_the_energy_distance_but_for_their_own_spread():
    g = torch.Generator().manual_seed(0)
    samples, truth = torch.randn(1, 60, 3, generator=g), torch.randn(80, 3, generator=g) + 1
    score = energy_score(samples.expand(80, 60, 3), truth)
    assert score == pytest.approx(float(energy_distance(samples[0], truth) + mean_pair_distance(truth)) / 2, rel=1e-4)


def test_the_energy_score_does_not_depend_on_the_chunks():
    samples, truth = posterior(30, 8)
    assert energy_score(samples, truth, chunk=7) == pytest.approx(energy_score(samples, truth))


def test_rows_of_one_episode_count_as_one():
    g = torch.Generator().manual_seed(0)
    hit = (torch.rand(400, generator=g) < 0.5).double()
    repeated, episode = hit.repeat_interleave(25), torch.arange(400).repeat_interleave(25)

    def error(value, of):
        return episode_error(torch.stack([value, torch.ones_like(value)], -1), of, lambda s: s[:, 0] / s[:, 1])

    assert error(repeated, episode) == pytest.approx(0.5 / 20, rel=0.15)
    assert error(repeated, torch.arange(len(repeated))) == pytest.approx(0.5 / 100, rel=0.15)
    assert math.isnan(error(repeated, torch.zeros_like(episode)))


def test_the_error_of_r_squared_is_its_spread_over_fresh_data():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 100, 500, generator=g)
    values = torch.tensor([r_squared(a, a + b) for a, b in zip(x, noise)])
    assert r_squared_error(x[0], x[0] + noise[0], torch.arange(500)) == pytest.approx(float(values.std()), rel=0.25)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="got"):
        spread_over_error(torch.zeros(4, 3, 2), torch.zeros(4, 3))
    with pytest.raises(UserError, match="at least 2"):
        spread_over_error(torch.zeros(4, 1, 2), torch.zeros(4, 2))
    with pytest.raises(UserError, match="more samples"):
        coverage(torch.zeros(4, 5, 2), torch.zeros(4, 2))
    with pytest.raises(UserError, match="one shape"):
        r_squared(torch.zeros(4), torch.zeros(4, 1))
