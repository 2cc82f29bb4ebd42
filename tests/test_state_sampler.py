"""The reverse process: exact where the denoiser is exact, and the same steps as diffusers'."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.presets import PRESETS
from globediff_torchrl.state_models.sampler import PREDICTIONS, SAMPLERS, DiffusionSampler, training_target
from globediff_torchrl.state_models.schedule import NoiseSchedule

MEANS, WEIGHTS, SPREAD = torch.tensor([-1.5, 1.0]), torch.tensor([0.3, 0.7]), 0.3


def exact_x0(schedule, means, weights, spread):
    """E[s^0 | s^k] of a one-dimensional Gaussian mixture, in closed form."""

    def denoise(s_k, k):
        abar = schedule.alpha_bar.double()[k]
        variance = abar * spread**2 + 1 - abar
        logits = weights.log() - (s_k - abar.sqrt() * means) ** 2 / (2 * variance)
        each = (means * (1 - abar) + spread**2 * abar.sqrt() * s_k) / variance
        return (logits.softmax(-1) * each).sum(-1, keepdim=True)

    return denoise


def error_of(kind, steps, means, weights, spread, draws=40_000):
    schedule = NoiseSchedule("vp", steps, b_max=20.0)  # ends at 4e-5: what is left is the bias of the steps
    torch.manual_seed(0)
    start = torch.randn(draws, 1, dtype=torch.double)
    got = DiffusionSampler(schedule, kind)(exact_x0(schedule, means.double(), weights.double(), spread), start)
    mode = torch.multinomial(weights, draws, replacement=True)
    true = means[mode] + spread * torch.randn(draws)
    return wasserstein_distance(got.squeeze(-1).numpy(), true.numpy())


@pytest.mark.parametrize("kind", SAMPLERS)
def test_exact_denoiser_of_a_gaussian_gives_that_gaussian(kind):
    errors = [error_of(kind, steps, torch.tensor([0.7]), torch.ones(1), 0.5) for steps in (5, 20, 100)]
    assert errors[2] < 0.03
    assert errors[2] <= errors[1] + 0.005 <= errors[0] + 0.01


@pytest.mark.parametrize("kind", SAMPLERS)
def test_exact_denoiser_of_two_modes_gives_both_and_the_bias_falls_with_more_steps(kind):
    errors = [error_of(kind, steps, MEANS, WEIGHTS, SPREAD) for steps in (5, 20, 100)]
    assert errors[0] < 0.3
    assert errors[2] < 0.04
    assert errors[2] < errors[0]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", SAMPLERS)
def test_what_the_network_predicts_does_not_change_the_sample(kind, prediction):
    schedule = NoiseSchedule("vp", 5)
    x0 = exact_x0(schedule, MEANS.double(), WEIGHTS.double(), SPREAD)

    def network(s_k, k):
        clean, abar = x0(s_k, k), schedule.alpha_bar.double()[k]
        noise = (s_k - abar.sqrt() * clean) / (1 - abar).sqrt()
        return training_target(prediction, clean, noise, abar.expand(len(s_k)))

    start = torch.randn(64, 1, dtype=torch.double)
    torch.manual_seed(0)
    got = DiffusionSampler(schedule, kind, prediction)(network, start)
    torch.manual_seed(0)
    torch.testing.assert_close(got, DiffusionSampler(schedule, kind)(x0, start), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_no_noise_is_added_at_the_last_step(kind, steps):
    sampler = DiffusionSampler(NoiseSchedule("vp", steps), kind)
    constant = torch.full((8, 3), 0.25)
    torch.testing.assert_close(sampler(lambda s, k: constant, torch.randn(8, 3)), constant)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_a_sample_is_a_function_of_the_noise_that_is_given(kind, steps):
    sampler, start = DiffusionSampler(NoiseSchedule("vp", steps), kind), torch.randn(4, 2)
    assert sampler.noisy_steps == (steps - 1 if kind.startswith("ancestral") else 0)
    torch.manual_seed(5)
    drawn = sampler(lambda s, k: 0.5 * s, start)
    torch.manual_seed(5)
    noise = [torch.randn(4, 2) for _ in range(sampler.noisy_steps)]
    given = sampler(lambda s, k: 0.5 * s, start, noise=torch.cat([torch.empty(4, 0), *noise], -1))
    assert torch.equal(drawn, given)
    with pytest.raises(UserError, match=rf"expects noise of shape \[4, {2 * sampler.noisy_steps}\].*got \[4, 3\]"):
        sampler(lambda s, k: 0.5 * s, start, noise=torch.randn(4, 3))


def test_the_paper_s_variance_is_beta_and_keeps_more_of_the_spread_with_few_steps():
    schedule = NoiseSchedule("vp", 5)
    steps = DiffusionSampler(schedule, PRESETS["paper"]["sampler"], "eps").steps
    beta = schedule.beta.tolist()
    assert [steps[k].noise ** 2 for k in (2, 3, 4, 5)] == pytest.approx(beta[2:], rel=1e-5)
    start, exact = torch.randn(20_000, 1, dtype=torch.double), exact_x0(schedule, torch.zeros(1), torch.ones(1), 0.5)
    large, small = (DiffusionSampler(schedule, kind)(exact, start).std() for kind in ("ancestral_beta", "ancestral"))
    assert 0.85 < large / 0.5 < 0.95  # of the true spread; by hand .888 and .591
    assert 0.55 < small / 0.5 < 0.65


def test_unknown_names_are_refused():
    schedule = NoiseSchedule("vp", 5)
    with pytest.raises(UserError, match="ddim"):
        DiffusionSampler(schedule, "dim")
    with pytest.raises(UserError, match="eps"):
        DiffusionSampler(schedule, prediction="noise")


def run_ours(schedule, kind, prediction, start, network):
    """All s^k from K - 1 down to 0."""
    sampler, seen = DiffusionSampler(schedule, kind, prediction), []

    def denoise(s_k, k):
        seen.append(s_k)
        return network(s_k, k)

    torch.manual_seed(3)
    final = sampler(denoise, start)
    return seen[1:] + [final]


def network_of(dim):
    torch.manual_seed(1)
    weight = torch.randn(dim, dim, dtype=torch.double) / dim
    return lambda s, k: torch.tanh(s @ weight + 0.1 * k)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("kind", "steps"), [(kind, steps) for kind in SAMPLERS for steps in (1, 2, 5, 20)])
def test_every_step_equals_diffusers(kind, steps, prediction):
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    schedule = NoiseSchedule("vp", steps)
    names = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}
    abar = torch.tensor(schedule.exact_alpha_bar, dtype=torch.double)
    common = {
        "num_train_timesteps": steps, "trained_betas": (1 - abar[1:] / abar[:-1]).numpy(),
        "prediction_type": names[prediction],
    }  # fmt: skip
    if kind.startswith("ancestral"):
        variance = "fixed_small" if kind == "ancestral" else "fixed_large"
        theirs = DDPMScheduler(**common, variance_type=variance, clip_sample=False)
    elif kind == "ddim":
        theirs = DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True)
    else:
        theirs = DPMSolverMultistepScheduler(**common, final_sigmas_type="zero", euler_at_final=True)
    if kind == "dpmpp":
        theirs.set_timesteps(timesteps=list(range(steps - 1, -1, -1)))
    else:
        theirs.set_timesteps(steps)
    network, s_k = network_of(6), torch.randn(7, 6, dtype=torch.double)
    ours = run_ours(schedule, kind, prediction, s_k, network)
    torch.manual_seed(3)
    for k, ours_next in zip(range(steps, 0, -1), ours):
        # their latents may be scaled back to float32: a tolerance of that size
        s_k = theirs.step(network(s_k, k), theirs.timesteps[steps - k], s_k).prev_sample.double()
        torch.testing.assert_close(ours_next, s_k, rtol=2e-4, atol=2e-4)
