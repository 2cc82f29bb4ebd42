"""What GlobeDiff draws: anew, or by a hash of x, or one vector for all; and from which prior."""

import pytest
import torch
from exact_denoiser import Scaled
from small_models import AUX, INFERRED, S, X, batch, make
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl.state_models.repeatable import RepeatableNoise
from globediff_torchrl.studies.distances import energy_distance

LATENT, HYPOTHESES = ("agents", "latent"), ("agents", "hypotheses")
SAMPLERS = pytest.mark.parametrize("sampler", ["dpmpp", "ancestral", "ancestral_beta"])


@SAMPLERS
def test_random_inference_draws_anew_and_follows_the_global_seed(sampler):
    model, td = make(sampler=sampler), batch(4)
    with set_exploration_type(ExplorationType.RANDOM):
        torch.manual_seed(5)
        a = model(td.clone())[INFERRED]
        b = model(td.clone())[INFERRED]
        torch.manual_seed(5)
        c = model(td.clone())[INFERRED]
    assert not torch.allclose(a, b)
    assert torch.equal(a, c)


@SAMPLERS
def test_fixed_noise_is_the_same_at_all_x_and_times(sampler):
    model, data = make(num_samples=2, noise="fixed", latent_prior="standard", sampler=sampler), batch(5)
    inferred = []
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        with set_exploration_type(kind):
            inferred.append(model(data.clone()))
    torch.testing.assert_close(inferred[0][HYPOTHESES], inferred[1][HYPOTHESES])
    assert torch.equal(inferred[0][LATENT], inferred[0][LATENT][:1, :1].expand_as(inferred[0][LATENT]))


@SAMPLERS
def test_deterministic_draws_at_almost_the_same_x_are_posterior_samples(sampler):
    """Each is a function of its x; together they are distributed as fresh draws at one x are, not one point."""
    model = make(latent_prior="standard", sampler=sampler)
    x = torch.randn(1, 1, X, generator=torch.Generator().manual_seed(1)).expand(1000, 3, X)
    near = TensorDict({AUX: x + 1e-5 * torch.randn(1000, 3, X)}, [1000])
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        repeatable = model(near.clone())
        order = torch.randperm(1000)
        assert torch.equal(model(near[order].clone())[LATENT], repeatable[LATENT][order])
    z = repeatable[LATENT].flatten(0, 1)
    assert z.mean(0).abs().max() < 0.1
    assert (z.std(0) - 1).abs().max() < 0.1
    assert (z[1:] * z[:-1]).mean(0).abs().max() < 0.06
    with torch.no_grad():
        fresh = [model(near.clone())[INFERRED].flatten(0, 1) for _ in range(2)]
    spread = fresh[0].std(0).norm().item()
    assert energy_distance(repeatable[INFERRED].flatten(0, 1), fresh[0]).item() < 0.01 * spread
    assert energy_distance(repeatable[INFERRED].flatten(0, 1).mean(0).expand(2, S), fresh[0]).item() > 0.3 * spread


def unit_gaussian(schedule):
    """Exact for s ~ N(0, 1) whatever x, for ``prediction="eps"``: E[eps | s^k] = sqrt(1 - abar_k) s^k."""
    return Scaled((1 - schedule.alpha_bar).sqrt())


@pytest.mark.parametrize(("sampler", "true"), [("ancestral", 0.674), ("ancestral_beta", 0.898)])
@pytest.mark.parametrize("noise", ["fresh", "fixed"])
@pytest.mark.parametrize("kind", [ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN])
def test_the_ancestral_chain_is_as_wide_without_exploration_as_with_it(noise, kind, sampler, true):
    """Without the steps' noise it would be a chain of posterior means: .08 in place of .67 with five steps."""
    arguments = {"preset": "paper", "denoiser": "mlp", "num_samples": 400, "sampler": sampler}
    models = [make(**arguments, noise=source) for source in (noise, "fresh")]
    spread, data = [], batch(100)
    for model, explores in zip(models, (kind, ExplorationType.RANDOM)):
        model.denoiser = unit_gaussian(model.schedule)
        with set_exploration_type(explores), torch.no_grad():
            drawn = model(data.clone())[HYPOTHESES]
            again = model(data.clone())[HYPOTHESES]
        assert torch.equal(drawn, again) == (explores == kind)
        spread.append(drawn.std((0, 1, 2)))
    assert (spread[0] / spread[1] - 1).abs().max() < 0.12  # of some hundred independent draws
    assert (spread[1] - true).abs().max() < 0.025


def test_the_noise_of_the_steps_is_no_part_of_the_weights_and_changes_no_other_samplers_draws():
    sizes = {kind: make(sampler=kind).noise_sizes for kind in ("ddim", "dpmpp", "ancestral")}
    assert sizes["ddim"] == sizes["dpmpp"] == [S, 3, 0, 0]
    assert sizes["ancestral"] == [S, 3, 0, 4 * S]
    assert make(sampler="ancestral", diffusion_steps=1).noise_sizes == [S, 3 + 1, S, 0]  # z's Gaussian is drawn, too
    assert make(sampler="ancestral").state_dict().keys() == make(sampler="ddim").state_dict().keys()


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_deterministic_samples_are_as_wide_as_random_ones_where_the_last_step_leaves_noise_out(noise):
    model = make(diffusion_steps=1, noise=noise, num_samples=200)
    model.final_scale.fill_(0.7)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        with_it, again = model(batch(50))[HYPOTHESES], model(batch(50))[HYPOTHESES]
        model.final_noise = False
        without = model(batch(50))[HYPOTHESES]
    assert torch.equal(with_it, again)
    assert abs((with_it - without).std().item() - 0.7) < 0.05


def test_the_hash_sees_the_smallest_change_of_one_number_and_not_the_sign_of_zero():
    noise = RepeatableNoise(1, x_size=30, size=4)
    x = torch.zeros(1, 30)
    assert torch.equal(noise(x), noise(-x))
    changed = x.expand(30, 30) + torch.eye(30) * 1e-30
    assert len(noise(changed).flatten(1).unique(dim=0)) >= 28  # of 1,024: two may meet


@pytest.mark.parametrize("hypotheses", [16, 1000])
def test_no_hypothesis_is_the_negative_of_another_and_another_x_has_others(hypotheses):
    noise = RepeatableNoise(hypotheses, x_size=3, size=4)
    torch.manual_seed(0)
    one, other = noise(torch.randn(2, 3))
    assert (torch.cdist(one, -one) > 0).all()
    assert (torch.cdist(one, other) == 0).sum() < hypotheses  # not the same ones in another order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_hash_tells_round_numbers_apart(dtype):
    """Their low bits are all zero."""
    noise = RepeatableNoise(1, x_size=8, size=4)
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 8).to(dtype)
    assert len(noise(x).flatten(1).unique(dim=0)) > 190  # 226 of 1,024 are expected to be hit by 256 draws


def test_hypotheses_differ_from_each_other_also_when_deterministic():
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        samples = make(num_samples=3)(batch(2))[HYPOTHESES]
    assert not torch.allclose(samples[..., 0, :], samples[..., 1, :])


def test_prior_mean_is_the_latent_where_asked_for():
    model, td = make(deterministic="prior_mean"), batch(2)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        z = model(td)[LATENT]
    torch.testing.assert_close(z, model.prior(model.normalise_aux(td[AUX]))[0])


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_the_priors_mean_stands_for_z_only_where_nothing_is_explored(noise):
    model, td = make(deterministic="prior_mean", noise=noise), batch(2)
    mean = model.prior(model.normalise_aux(td[AUX]))[0]
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = model(td.clone())[LATENT]
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        torch.testing.assert_close(model(td.clone())[LATENT], mean)
    assert not torch.isclose(drawn, mean).any()


def test_standard_prior_has_no_prior_network_and_draws_from_the_unit_gaussian():
    model = make(latent_prior="standard")
    assert model.prior is None
    z = model(batch(4000))[LATENT]
    assert abs(z.mean().item()) < 0.05
    assert abs(z.std().item() - 1) < 0.05


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_of_many_hypotheses_the_first_is_the_one_of_a_model_that_has_one(noise):
    """What a trained policy acted on is among those that its state model is asked for afterwards."""
    one, x = make(noise=noise), batch(7)
    many = one.with_arguments(num_samples=5)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        single, several = one(x.clone())[INFERRED], many(x.clone())
    torch.testing.assert_close(several["agents", "hypotheses"][..., 0, :], single)
    torch.testing.assert_close(several[INFERRED], single)
