"""What is measured of a trained GlobeDiff: what its regression leaves open, and what its last step leaves out."""

import pytest
import torch
from exact_denoiser import Scaled
from tensordict import TensorDict

from globediff_torchrl.state_models import Fitter, GlobeDiff, fit
from globediff_torchrl.state_models.calibration import last_step_spread, residual_variance

AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")
MEAN, BLEND = ("agents", "inferred_mean"), ("agents", "inferred_blend")


def exact_gaussian(schedule, sd):
    """E[s^0 | s^k] of s^0 ~ N(0, sd^2), for ``prediction="x0"``."""
    abar = schedule.alpha_bar
    return Scaled(abar.sqrt() * sd**2 / (abar * sd**2 + 1 - abar))


def small(**settings):
    torch.manual_seed(0)
    return GlobeDiff(4, 3, **{"width": 16, "latent_width": 16, "latent_dim": 2, **settings})


def test_residual_scale_is_what_the_regression_leaves_open():
    model = small()
    torch.nn.init.zeros_(model.regression[-1].weight)
    torch.nn.init.zeros_(model.regression[-1].bias)
    s = torch.randn(4000, 3) * torch.tensor([2.0, 1.0, 1e-4])
    model.update_residual_scale(torch.randn(4000, 4), s)
    torch.testing.assert_close(model.residual_scale, torch.tensor([2.0, 1.0, 0.05]), rtol=0.05, atol=0.01)


def test_final_noise_restores_the_spread_that_one_step_leaves_out():
    model = small(preset="fast", latent_dim=0, center="none")
    s = torch.randn(4000, 3) * torch.tensor([2.0, 1.0, 0.0])
    model.update_final_scale(torch.randn(4000, 4), s)  # a fresh v-network outputs zeros: its estimate is sqrt(abar) s^1
    expected = s.std(0) * (1 - model.schedule.alpha_bar[1]).item()
    torch.testing.assert_close(model.final_scale[:2], expected[:2], rtol=0.1, atol=0)
    td = TensorDict({AUX: torch.randn(4000, 1, 4)}, [4000])
    assert model(td)[INFERRED].std(0)[0, 0] > 1.8


@pytest.mark.parametrize(
    ("steps", "expected"), [(3, (0.82, 0.88, 0.95)), (4, (0.92, 0.90, 0.93)), (5, (0.97, 0.91, 0.84))]
)
def test_few_steps_keep_the_spread_of_a_gaussian_that_is_known_exactly(steps, expected):
    """With the exact denoiser of N(0, sd^2), sd 1, .5 and .3; without the last noise K = 3 has .74, .65 and .56."""
    for sd, share in zip((1.0, 0.5, 0.3), expected):
        model = small(diffusion_steps=steps, latent_dim=0, center="none", prediction="x0")
        model.denoiser = exact_gaussian(model.schedule, sd)
        s = sd * torch.randn(20_000, 3)
        model.final_scale.copy_(last_step_spread(model, torch.randn(20_000, 4), s))
        drawn = model(TensorDict({AUX: torch.randn(20_000, 1, 4)}, [20_000]))[INFERRED]
        assert abs(drawn.std().item() / sd - share) < 0.015


def test_the_last_spread_is_that_about_the_clipped_estimate():
    """A network whose estimates lie far out: the steps clip them to the bound, and so must what measures them."""
    model = small(preset="fast", latent_dim=0, center="none", clip=1.0)
    torch.nn.init.constant_(model.denoiser.leave[-1].bias, -30.0)
    s = torch.randn(4000, 3)
    model.update_final_scale(torch.randn(4000, 4), s)
    torch.testing.assert_close(model.final_scale, (s - 1).square().mean(0).sqrt())


def noise(rows, seed):
    """s that x tells nothing of: whatever a model makes of it on pairs that it was fitted to is over-fitted."""
    g = torch.Generator().manual_seed(seed)
    return TensorDict({AUX: torch.randn(rows, 1, 4, generator=g), "state": torch.randn(rows, 3, generator=g)}, [rows])


@pytest.mark.parametrize(("validation", "low", "high"), [(None, 0.2, 0.5), (noise(4000, 9), 0.85, 1.15)])
def test_an_over_fitted_model_is_calibrated_where_the_last_spread_is_measured_on_held_out_pairs(validation, low, high):
    model = small(preset="fast", width=32, latent_dim=0)
    fit(model, noise(48, 7), steps=400, batch_size=48, progress=False, validation=validation)
    fresh = noise(500, 8)
    samples = model(TensorDict({AUX: fresh[AUX].repeat_interleave(16, 0)}, [8000]))[INFERRED].view(500, 16, 3)
    error = (samples.mean(1) - fresh["state"]).square().mean() * 16 / 17  # of a mean of 16: 1 + 1/16 if calibrated
    assert low < (samples.var(1).mean() / error).sqrt() < high


def test_a_blend_is_the_mean_where_x_tells_and_the_sample_where_it_does_not():
    model = small()
    torch.nn.init.normal_(model.denoiser.leave[-1].weight)
    model.open_share.copy_(torch.tensor([0.0, 0.25, 1.0]))
    td = model(TensorDict({AUX: torch.randn(7, 2, 4)}, [7]))
    mean, sample, blend = td[MEAN], td[INFERRED], td[BLEND]
    torch.testing.assert_close(blend[..., 0], mean[..., 0])
    torch.testing.assert_close(blend[..., 1], mean[..., 1] + 0.25 * (sample - mean)[..., 1])
    torch.testing.assert_close(blend[..., 2], sample[..., 2])


@pytest.mark.parametrize("preset", ["tuned", "fast"])
def test_the_open_share_is_what_the_regression_leaves_of_held_out_pairs_at_the_end(preset):
    """Over-fitted: of pairs that x tells nothing of, little seems to be left on those that were fitted."""
    shares = {}
    for held_out in (None, noise(4000, 9)):
        model = small(preset=preset, width=32, latent_dim=0)
        fit(model, noise(48, 7), steps=400, batch_size=48, progress=False, validation=held_out)
        shares[held_out is None] = model.open_share.mean()
    assert shares[True] < 0.5 and shares[False] > 0.9
    assert model.residual_scale.max() < 1  # the unit of the diffusion stays that of the fitted pairs


def test_the_open_share_follows_the_regression_and_the_unit_of_the_diffusion_stays():
    model = small()
    fitter = Fitter(model)
    x, s = torch.randn(4000, 4), torch.randn(4000, 3) * torch.tensor([0.5, 2.0, 0.01])
    for part in (model, fitter.raw):
        torch.nn.init.zeros_(part.regression[-1].weight)
        torch.nn.init.zeros_(part.regression[-1].bias)
    fitter.update_residual_scale(x, s)
    expected = torch.tensor([0.25, 1.0, 0.0001])
    torch.testing.assert_close(model.open_share, expected, rtol=0.1, atol=0)
    unit = model.residual_scale.clone()
    fitter.update_final_scale(x, s * 0.5)
    torch.testing.assert_close(model.open_share, torch.tensor([0.0625, 1.0, 0.000025]), rtol=0.1, atol=0)
    assert torch.equal(fitter.raw.open_share, model.open_share)
    assert torch.equal(model.residual_scale, unit)


def test_what_the_regression_leaves_open_is_measured_on_all_rows_however_many():
    model = small()
    torch.nn.init.zeros_(model.regression[-1].weight)
    torch.nn.init.zeros_(model.regression[-1].bias)
    scale = torch.tensor([2.0, 1.0, 0.5])
    s = torch.cat([torch.randn(3_616, 3) * scale, torch.zeros(16_384, 3)])  # the last chunks hold nothing
    variance = residual_variance(model, torch.randn(20_000, 4), s)
    torch.testing.assert_close(variance.float(), 3_616 / 20_000 * scale.square(), rtol=0.1, atol=0)


def test_the_last_step_is_measured_with_the_posterior_of_what_is_diffused():
    model, seen = small(latent_dim=2), []
    model.residual_scale.copy_(torch.tensor([2.0, 1.0, 0.5]))
    model.posterior.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    x, s = torch.randn(50, 4), torch.randn(50, 3) + 3
    last_step_spread(model, x, s)
    ((given_x, given_s),) = seen
    xs = model.normalise_aux(x)
    torch.testing.assert_close(given_x, xs)
    torch.testing.assert_close(given_s, (model.normalise_state(s) - model.regression(xs)) / model.residual_scale)
