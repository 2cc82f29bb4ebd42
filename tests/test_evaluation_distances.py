"""The mean distance of two samples, distances far from zero and of rows of episodes; the rest is in
test_state_distances.py."""

import math

import pytest
import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.studies.distances import energy_distance, mean_pair_distance


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


def two_bits(seed: int, episodes: int = 32, steps: int = 20):
    """Two bits for each episode, of which x tells at every step the product alone, and exact samples of them.

    Returns:
        truth, samples ``[M, 2]`` and the episode ``[M]``, an episode's rows one after the other.
    """
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (episodes, 1, 2), generator=g).float() * 2 - 1
    first = torch.randint(2, (episodes, steps, 1), generator=g).float() * 2 - 1
    samples = torch.cat([first, first * bits.prod(-1, keepdim=True)], -1)
    return (
        bits.expand(-1, steps, -1).flatten(0, 1),
        samples.flatten(0, 1),
        torch.arange(episodes).repeat_interleave(steps),
    )


def mean_and_error(values: list[torch.Tensor]) -> tuple[float, float]:
    values = torch.stack(values)
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def test_an_exact_sampler_of_what_is_constant_in_an_episode_has_no_energy_distance_and_the_mean_has_one():
    drawn = [two_bits(seed) for seed in range(200)]
    mean, error = mean_and_error([energy_distance(samples, truth, episode) for truth, samples, episode in drawn])
    assert abs(mean) < 2 * error < 0.01
    mean, error = mean_and_error([energy_distance(samples, truth) for truth, samples, _ in drawn])
    assert mean > 10 * error, "as if the rows of an episode were independent: what the groups are for"
    # the mean: 2 E|0 - B| - E|B - B'| = 2 sqrt 2 - (0 + 2 + 2 + 2 sqrt 2) / 4
    mean, error = mean_and_error([energy_distance(0 * truth, truth, episode) for truth, _, episode in drawn])
    assert mean == pytest.approx(1.5 * math.sqrt(2) - 1, abs=2 * error) and mean > 1


def test_the_truth_itself_has_no_energy_distance_whatever_the_episodes():
    truth, _, episode = two_bits(0)
    assert energy_distance(truth, truth, episode).item() == 0


@pytest.mark.parametrize("repeats", [1, 700])  # more rows than are compared at once
def test_rows_of_one_episode_are_not_compared(repeats):
    a, b = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [3.0], [7.0]])
    across = (7 + 6 + 5 + 2) / 4, (5 + 4) / 2, (7 + 4) / 2  # of a and b, of a, of b; the first two are one episode
    a, b, episode = (value.repeat_interleave(repeats, 0) for value in (a, b, torch.tensor([3, 3, 8])))
    assert energy_distance(a, b, episode).item() == pytest.approx(2 * across[0] - across[1] - across[2])


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="groups"):
        energy_distance(torch.zeros(4, 1), torch.zeros(3, 1), torch.arange(4))
    with pytest.raises(UserError, match="at least 2 groups"):
        energy_distance(torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4).long())
