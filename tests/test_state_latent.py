"""Prior and posterior of the latent."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from globediff_torchrl.state_models import VAEStateModel
from globediff_torchrl.state_models.latent import (
    LatentPosterior,
    LatentPrior,
    active_units,
    gaussian_kl,
    sample_gaussian,
)
from globediff_torchrl.state_models.latent_mixture import MixturePrior
from globediff_torchrl.studies.distances import energy_distance


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


@pytest.fixture
def mixture():
    """A prior of three Gaussians in two dims that lie apart, and torch's own distribution of it at each x."""
    torch.manual_seed(3)
    prior = MixturePrior(4, 2, modes=3, width=16)
    with torch.no_grad():
        prior.net[-1].weight.mul_(60)
        prior.net[-1].bias.split(prior.sizes)[1].mul_(3)

    def reference(x):
        log_weight, mean, log_variance = prior(x)
        gaussians = Independent(Normal(mean, (log_variance / 2).exp()), 1)
        return MixtureSameFamily(Categorical(logits=log_weight), gaussians)

    return prior, reference


@torch.no_grad()
def test_draws_of_the_mixture_are_distributed_as_torchs_own(mixture):
    prior, reference = mixture
    x = torch.randn(5, 4)
    z = prior.draw(x, torch.randn(5, 4000, prior.noise_size))
    same, other = reference(x).sample((4000,)).transpose(0, 1), reference(-x).sample((4000,)).transpose(0, 1)
    assert energy_distance(z, same).max() < 0.01
    assert energy_distance(z, other).max() > 0.1
    log_weight, mean, _ = prior(x)
    heaviest = mean[torch.arange(5), log_weight.argmax(-1)]
    assert torch.equal(prior.draw(x, None)[:, 0], heaviest)


@torch.no_grad()
def test_the_mixtures_kl_is_a_bound_and_close_where_one_gaussian_holds_q(mixture):
    prior, reference = mixture
    x = torch.randn(6, 4)
    wide = torch.randn(6, 2), torch.randn(6, 2)
    log_weight, mean, log_variance = prior(x)
    inside = mean[:, 0], log_variance[:, 0] - 4  # narrow, in the middle of the first Gaussian
    for q, slack in ((wide, None), (inside, 0.05)):
        z = sample_gaussian(*(t.expand(20_000, -1, -1) for t in q))
        log_q = Independent(Normal(q[0], (q[1] / 2).exp()), 1).log_prob(z)
        exact = (log_q - reference(x).log_prob(z)).mean(0)
        assert (prior.kl(q, x) > exact - 0.05).all()
        if slack:
            torch.testing.assert_close(prior.kl(q, x), exact, atol=slack, rtol=0)
    one = (mean[:, 0], log_variance[:, 0]), (mean[:, 1], log_variance[:, 1])
    assert (prior.kl(one[0], x) <= -log_weight[:, 0] + 1e-4).all()  # never more than naming the Gaussian costs


def test_one_mode_is_the_gaussian_prior():
    prior = MixturePrior(4, 3, modes=1, width=16)
    x, q = torch.randn(7, 4), (torch.randn(7, 3), torch.randn(7, 3))
    _, mean, log_variance = prior(x)
    torch.testing.assert_close(prior.kl(q, x), gaussian_kl(q, (mean[:, 0], log_variance[:, 0])))
    noise = torch.randn(7, 2, prior.noise_size)
    expected = sample_gaussian(mean, log_variance, noise[..., :3])
    torch.testing.assert_close(prior.draw(x, noise), expected)


def test_the_loss_of_the_vae_has_the_kl_of_its_posterior_and_decodes_a_sample_of_it():
    """KL(N(1, e^-2) || N(0, 1)) = .5 (e^-2 + 1 + 2 - 1) = 1.0677; the other way round it is 6.4."""
    model = VAEStateModel(3, 2, latent_dim=1, beta_kl=0.5, width=8)
    q = torch.ones(50, 1), torch.full((50, 1), -2.0)
    model.posterior.forward = lambda x, s: q
    loss, terms = model.make_loss(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        terms.append(loss.terms(torch.ones(50, 3), torch.zeros(50, 2), None))
    torch.testing.assert_close(terms[0]["kl"], torch.tensor(0.5 * (math.exp(-2) + 2)))
    torch.testing.assert_close(terms[0]["loss_kl"], 0.5 * terms[0]["kl"])
    first, again, other = (term["loss_reconstruction"] for term in terms)
    assert first == again != other


def test_the_papers_vae_minimises_the_evidence_bound_of_a_decoder_with_unit_variance():
    """The loss is a mean over d_s dims, so in it the KL weighs 2 / d_s; with 1 the posterior would collapse."""
    d_s = 5
    model = VAEStateModel(3, d_s, preset="paper", width=8)
    x, s = torch.randn(40, 3), torch.randn(40, d_s)
    torch.manual_seed(0)
    terms = model.make_loss().terms(x, s, None)
    torch.manual_seed(0)
    q = model.posterior(x, s)
    likelihood = Independent(Normal(model.decode(x, sample_gaussian(*q)), 1.0), 1).log_prob(s).mean()
    divergence = gaussian_kl(q, (torch.zeros_like(q[0]), torch.zeros_like(q[1]))).mean()
    bound = likelihood - divergence + d_s / 2 * math.log(2 * math.pi)
    torch.testing.assert_close((terms["loss_reconstruction"] + terms["loss_kl"]) * d_s / 2, -bound)
    assert VAEStateModel(3, d_s, preset="paper", width=8, beta_kl=0.3).beta_kl == 0.3
