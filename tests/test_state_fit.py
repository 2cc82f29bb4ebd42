"""Losses and training: gradients, masks, resuming, and what each model makes of two modes."""

import math

import pytest
import torch
from small_models import AUX, INFERRED, data, small, weights_of
from tensordict import TensorDict

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import Fitter, GlobeDiff, MLPStateModel, OracleStateModel, VAEStateModel, fit
from globediff_torchrl.state_models.fit import learning_rate
from globediff_torchrl.state_models.loss import level_probabilities


def two_modes(rows=4000, seed=0):
    """s = +-1 (times a sign that x does not tell) around x."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, 1, generator=g)
    sign = torch.randint(0, 2, (rows, 1), generator=g) * 2.0 - 1
    s = 0.5 * x[:, 0] + sign * torch.ones(1, 2) + 0.05 * torch.randn(rows, 2, generator=g)
    return TensorDict({AUX: x, "state": s}, [rows])


@pytest.mark.parametrize("preset", ["tuned", "fast", "paper"])
def test_gradient_reaches_prior_posterior_denoiser_and_regression(preset):
    model = small(preset=preset, width=8)
    torch.nn.init.normal_(model.denoiser.leave[-1].weight)  # zero in a fresh net: nothing would pass through it
    terms = model.make_loss()(data())
    sum(value for name, value in terms.items() if name.startswith("loss_")).backward()
    for part in ("prior", "posterior", "denoiser", "regression"):
        module = getattr(model, part)
        if module is not None:
            missing = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert not missing, (part, missing)
    assert (model.regression is None) == (preset == "paper")


def test_the_mean_enters_the_diffusion_detached():
    model = small()
    terms = model.make_loss()(data())
    terms["loss_diffusion"].backward()
    assert all(p.grad is None for p in model.regression.parameters())


def test_loss_metrics_are_detached_and_the_kl_is_weighted():
    model = small(beta_kl=0.25)
    terms = model.make_loss()(data())
    assert not terms["kl"].requires_grad
    assert not terms["active_units"].requires_grad
    torch.testing.assert_close(terms["loss_kl"], 0.25 * terms["kl"])


@pytest.mark.parametrize("make", [small, lambda: MLPStateModel(4, 3, width=16), lambda: VAEStateModel(4, 3, width=16)])
def test_dead_agents_leave_the_loss_unchanged(make):
    model = make()
    loss = model.make_loss()
    td = data(32)
    mask = torch.ones(32, 2, 1, dtype=torch.bool)
    mask[::2, 1] = False
    td[("agents", "active_mask")] = mask
    other = td.clone()
    other[AUX] = torch.where(mask, td[AUX], torch.full_like(td[AUX], 7.0))
    values = []
    for batch in (td, other):
        torch.manual_seed(1)
        values.append([v for name, v in loss(batch).items() if name.startswith("loss_")])
    for a, b in zip(*values):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("make", [small, lambda: MLPStateModel(4, 3, width=16), lambda: VAEStateModel(4, 3, width=16)])
def test_nan_of_the_dead_leaves_the_fit_unchanged_to_the_bit(make, own):
    td = data(32)
    if own:
        td["state"] = td["state"][:, None].expand(32, 2, 3).contiguous()
    dead = torch.zeros(32, 2, 1, dtype=torch.bool)
    dead[::2, 1] = True
    td["agents", "active_mask"] = ~dead
    poisoned = td.clone()
    poisoned[AUX] = td[AUX].masked_fill(dead, torch.nan)
    if own:
        poisoned["state"] = td["state"].masked_fill(dead, torch.inf)
    weights = []
    for batch in (td, poisoned):
        torch.manual_seed(0)
        model = make()
        fit(model, batch, steps=10, batch_size=16, progress=False, validation=batch)
        weights.append(weights_of(model))
    assert torch.equal(*weights)
    poisoned[AUX][1, 0, 2] = torch.nan
    with pytest.raises(UserError, match=r"aux_observation'\) holds 1 of 192 values that are NaN"):  # of the living
        Fitter(make()).step(poisoned)


@pytest.mark.parametrize("make", [small, lambda: MLPStateModel(4, 3, width=16), lambda: VAEStateModel(4, 3, width=16)])
def test_the_loss_of_no_row_is_zero_with_and_without_a_mask(make):
    loss, td = make().make_loss(), data(2)[:0]
    for _ in range(2):
        assert all(value == 0 for value in loss(td).values())
        td["agents", "active_mask"] = torch.ones(0, 2, 1, dtype=torch.bool)


def test_a_fit_under_no_grad_trains_all_the_same():
    inside, outside = small(), small()
    with torch.no_grad():
        fit(inside, data(), steps=10, batch_size=8, progress=False)
        assert not torch.is_grad_enabled()
    fit(outside, data(), steps=10, batch_size=8, progress=False)
    assert torch.equal(weights_of(inside), weights_of(outside))


@pytest.mark.parametrize("make", [small, lambda: VAEStateModel(4, 3, width=16)])
def test_the_dead_do_not_count_among_the_units_that_z_uses(make):
    loss, td = make().make_loss(), data(32)
    td["agents", "active_mask"] = torch.zeros(32, 2, 1, dtype=torch.bool)
    td["agents", "active_mask"][0] = True
    td[AUX][0] = 0.3  # all who live are alike: z has nothing to tell
    td["state"][0] = 0.3
    td[AUX][1:] *= 1000
    assert loss(td)["active_units"] == 0
    td["agents", "active_mask"][:] = True
    assert loss(td)["active_units"] > 0


def test_state_may_be_each_agents_own():
    td = data(32)
    own = td.clone().set("state", td["state"][:, None].expand(32, 2, 3).contiguous())
    model = MLPStateModel(4, 3, width=16)
    torch.testing.assert_close(model.make_loss()(td)["loss_regression"], model.make_loss()(own)["loss_regression"])


def test_team_models_train_on_agent_zero_alone():
    td = data(32)
    poisoned = td.clone()
    poisoned[AUX][:, 1] = torch.nan
    loss = MLPStateModel(4, 3, width=16, infer_per="team").make_loss()
    torch.testing.assert_close(loss(td)["loss_regression"], loss(poisoned)["loss_regression"])


def test_loss_keys_can_be_set():
    model = small()
    loss = model.make_loss()
    loss.set_keys(aux_observation="x", state="s")
    td = data()
    assert loss.in_keys == ["x", "s"]
    assert loss(TensorDict({"x": td[AUX], "s": td["state"]}, [64]))["loss_diffusion"].isfinite()


def test_levels_are_uniform_or_lean_to_noise_and_are_drawn_so():
    torch.testing.assert_close(level_probabilities("uniform", 5), torch.full((5,), 0.2))
    noisy = level_probabilities("noisy", 5)
    assert (noisy.diff() > 0).all()
    loss = small(levels="noisy").make_loss()
    drawn = torch.bincount(loss._draw_levels(10_000), minlength=6)
    torch.testing.assert_close(drawn[1:] / 10_000, noisy, rtol=0.02, atol=0.002)
    assert drawn[0] == 0


def test_levels_are_drawn_where_the_model_is_also_by_a_loss_made_after_the_move():
    model = small().to("meta")
    assert model.make_loss()._draw_levels(8).device.type == "meta"
    assert Fitter(model).loss._draw_levels(8).device.type == "meta"


def test_a_regressor_averages_two_modes_and_globediff_does_not():
    train, test = two_modes(), two_modes(500, seed=1)
    models = [MLPStateModel(1, 2, width=64), GlobeDiff(1, 2, width=64, latent_dim=0)]
    sides = []
    for model in models:
        torch.manual_seed(0)
        fit(model, train, steps=600, batch_size=128, lr=3e-3, progress=False)
        offset = model(test.clone())[INFERRED][:, 0] - 0.5 * test[AUX][:, 0]
        sides.append(offset)
    assert sides[0].abs().max() < 0.4  # between the modes
    near = (sides[1].abs() - 1).abs() < 0.3
    assert near.all(-1).float().mean() > 0.9
    assert 0.35 < (sides[1][:, 0] > 0).float().mean() < 0.65


@pytest.mark.parametrize("stop", [7, 30])
def test_an_interrupted_fit_ends_as_the_uninterrupted_one(tmp_path, stop):
    whole, resumed = small(), small()
    history = fit(whole, data(), steps=60, batch_size=16, progress=False)
    file = tmp_path / "fit.pt"
    fit(resumed, data(), steps=60, batch_size=16, progress=False, checkpoint=file, stop_at=stop)
    resumed = small()
    again = fit(resumed, data(), steps=60, batch_size=16, progress=False, checkpoint=file)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert history.keys() == again.keys()
    for name in history:
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(history[name], again[name]))


def curve(rows, low, high, seed=0):
    """x and s = sin(3 x) between two bounds."""
    x = low + (high - low) * torch.rand(rows, 1, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDict({AUX: x, "state": torch.sin(3 * x[:, 0, :3])}, [rows])


def test_a_fit_that_is_continued_keeps_the_units_that_the_weights_were_trained_in(tmp_path):
    model, before, later = MLPStateModel(4, 3, width=64), curve(2000, -1, 1), curve(2000, 0.5, 1)
    fitter = Fitter(model, lr=2e-3)

    def error():
        return (model(before.clone())[INFERRED][:, 0] - before["state"]).square().mean() / before["state"].var()

    fit(model, before, steps=600, batch_size=128, fitter=fitter, progress=False)
    good, steps = error(), fitter.steps
    fit(model, later, steps=50, lr=1e-6, fitter=fitter, progress=False, checkpoint=tmp_path / "fit.pt", stop_at=2)
    assert good < 0.05 and error() < 1.1 * good and fitter.steps == steps + 2


@pytest.mark.parametrize("stop", [None, 12])
def test_a_fit_leaves_its_fitter_the_learning_rate_that_it_had(tmp_path, stop):
    """That of the schedule's end would let the steps after it learn next to nothing."""
    plan = {"steps": 20, "batch_size": 16, "lr": 1e-2, "progress": False, "checkpoint": tmp_path / "fit.pt"}
    whole = small()
    fit(whole, data(), **{**plan, "checkpoint": None})
    if stop:
        fit(small(), data(), **plan, stop_at=stop)
    fitter = Fitter(small(), lr=2e-3)
    fit(fitter.model, data(), fitter=fitter, **plan)
    assert torch.equal(weights_of(whole), weights_of(fitter.model))
    before = [p.clone() for p in fitter.raw.parameters()]
    fitter.step(data(3))
    assert fitter.optimizer.param_groups[0]["lr"] == 2e-3
    assert max((p - q).abs().max() for p, q in zip(fitter.raw.parameters(), before)) > 5e-4
    with pytest.raises(UserError, match="NaN"):
        fit(fitter.model, data() * torch.nan, fitter=fitter, **{**plan, "checkpoint": None})
    assert fitter.optimizer.param_groups[0]["lr"] == 2e-3  # after a fit that fails, too


def test_a_continued_fit_that_is_interrupted_ends_as_the_uninterrupted_one(tmp_path):
    ends = []
    for stop in (None, 2):
        model = small()
        fitter = Fitter(model)
        fit(model, data(), steps=20, batch_size=16, fitter=fitter, progress=False)
        scale = model.residual_scale.clone()
        again = {"steps": 20, "batch_size": 16, "progress": False, "checkpoint": tmp_path / f"{stop}.pt"}
        fit(model, data(3), fitter=fitter, stop_at=stop, **again)
        if stop:
            model = small()
            fit(model, data(3), **again)
        assert torch.equal(model.residual_scale, scale)  # the unit of the denoiser's target
        ends.append(weights_of(model))
    assert torch.equal(*ends)


def test_a_checkpoint_of_another_plan_or_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "fit.pt"
    fit(small(), data(), steps=4, batch_size=8, progress=False, checkpoint=file)
    with pytest.raises(UserError, match="this call has"):
        fit(small(), data(), steps=5, batch_size=8, progress=False, checkpoint=file)
    file.write_bytes(b"torn")
    with pytest.raises(UserError, match="no checkpoint"):
        fit(small(), data(), steps=4, batch_size=8, progress=False, checkpoint=file)


def test_fit_leaves_the_global_generator_alone_and_repeats_itself():
    torch.manual_seed(9)
    before = torch.get_rng_state()
    a, b = small(), small()
    torch.set_rng_state(before)
    fit(a, data(), steps=10, batch_size=8, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    fit(b, data(), steps=10, batch_size=8, progress=False)
    assert torch.equal(weights_of(a), weights_of(b))


def test_fit_takes_time_dims_masks_and_memory_mapped_data(tmp_path):
    td = data(24).reshape(6, 4)
    td[("agents", "active_mask")] = torch.ones(6, 4, 2, 1, dtype=torch.bool)
    mapped = td.memmap(tmp_path)
    history = fit(small(), mapped, steps=8, batch_size=8, progress=False, validation=td)
    assert history["step"] == [8]
    assert math.isfinite(history["validation/loss_diffusion"][-1])


@pytest.mark.parametrize("where", [AUX, "state"])
def test_nan_in_the_data_is_named(where):
    td = data()
    td[where].view(-1)[5] = torch.nan
    with pytest.raises(UserError, match=r"\d of .* NaN"):
        fit(small(), td, steps=2, progress=False)
    with pytest.raises(UserError, match=r"\d of .* NaN"):
        Fitter(small()).step(td)


def test_misuse_of_fit_is_refused():
    with pytest.raises(UserError, match="nothing to fit"):
        fit(OracleStateModel(4, 3), data(), steps=2, progress=False)
    with pytest.raises(UserError, match="steps of fit must be a whole number above 0"):
        fit(small(), data(), steps=0, progress=False)
    with pytest.raises(UserError, match="expects 'state'"):
        fit(small(), data().exclude("state"), steps=2, progress=False)
    with pytest.raises(UserError, match="at least one row"):
        fit(small(), data()[:0], steps=2, progress=False)
    with pytest.raises(UserError, match="lr"):
        Fitter(small(), lr=-1.0)
    with pytest.raises(UserError, match="same steps"):
        small().make_loss()(TensorDict({AUX: torch.randn(4, 2, 4), "state": torch.randn(5, 3)}, []))


def test_the_learning_rate_warms_up_over_three_steps_of_a_hundred_and_falls_to_a_hundredth():
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates[3 + 97 // 2] == pytest.approx(0.505, abs=0.01) and rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert rates[3:] == sorted(rates[3:], reverse=True)
