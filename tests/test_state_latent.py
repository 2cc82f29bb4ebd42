"""Prior and posterior of the latent."""

import torch
from torch.distributions import Normal, kl_divergence

from globediff_torchrl.state_models.latent import (
    LatentPosterior,
    LatentPrior,
    active_units,
    gaussian_kl,
    sample_gaussian,
)


def test_kl_equals_that_of_torch_distributions():
    torch.manual_seed(0)
    q, p = (torch.randn(9, 5), torch.randn(9, 5)), (torch.randn(9, 5), torch.randn(9, 5))
    reference = kl_divergence(Normal(q[0], (q[1] / 2).exp()), Normal(p[0], (p[1] / 2).exp())).sum(-1)
    torch.testing.assert_close(gaussian_kl(q, p), reference)


def test_log_variance_is_clamped_however_far_x_lies():
    prior, posterior = LatentPrior(4, 3, width=16), LatentPosterior(4, 2, 3, width=16)
    for _, log_variance in (prior(1e6 * torch.randn(50, 4)), posterior(1e6 * torch.randn(50, 4), torch.randn(50, 2))):
        assert log_variance.min() >= -8
        assert log_variance.max() <= 4


def test_paper_sizes_are_three_hidden_layers_of_1024():
    shapes = [tuple(p.shape) for p in LatentPrior(10, 16).parameters() if p.ndim == 2]
    assert shapes == [(1024, 10), (1024, 1024), (1024, 1024), (32, 1024)]


def test_samples_have_the_given_moments_and_pass_the_gradient():
    mean = torch.full((100_000, 1), 0.5, requires_grad=True)
    log_variance = torch.full((100_000, 1), -2.0, requires_grad=True)
    z = sample_gaussian(mean, log_variance)
    assert abs(z.mean().item() - 0.5) < 0.01
    assert abs(z.var().item() - torch.tensor(-2.0).exp().item()) < 0.01
    z.square().mean().backward()
    assert mean.grad.abs().sum() > 0
    assert log_variance.grad.abs().sum() > 0


def test_active_units_counts_the_dims_whose_mean_varies():
    means = torch.stack([torch.randn(200), torch.zeros(200), 0.05 * torch.randn(200), torch.full((200,), 3.0)], -1)
    assert active_units(means) == 1
