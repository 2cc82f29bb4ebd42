"""One optimiser step at a time: the average, its state, and the order in which a model is to be measured."""

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
from small_models import AUX, INFERRED, data, small, weights_of
from tensordict import TensorDict
from torch import nn
from torchrl.objectives import LossModule

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import Fitter, GlobeDiff, MLPStateModel, VAEStateModel, fit
from globediff_torchrl.state_models.pairs import pairs_of
from globediff_torchrl.studies.inferability import spread_over_error
from globediff_torchrl.studies.known_posteriors import Mixture


def test_the_model_holds_the_moving_average_and_the_copy_is_trained():
    model = small()
    fitter = Fitter(model, ema=0.5)
    before = weights_of(model)
    fitter.step(data())
    raw, now = weights_of(fitter.raw), weights_of(model)
    decay = min(0.5, 2 / 11)
    torch.testing.assert_close(now, decay * before + (1 - decay) * raw, rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad for p in model.parameters())


def test_fitter_state_reloads_with_weights_only_and_continues_alike(tmp_path):
    a = Fitter(small(), lr=1e-3)
    a.set_statistics(data()[AUX], data()["state"])
    a.step(data())
    torch.save(a.state_dict(), tmp_path / "fitter.pt")
    b = Fitter(small(), lr=1e-3)
    b.load_state_dict(torch.load(tmp_path / "fitter.pt", weights_only=True))
    for fitter in (a, b):
        torch.manual_seed(2)
        fitter.step(data(seed=3))
    assert torch.equal(weights_of(a.model), weights_of(b.model))
    with pytest.raises(UserError, match="does not fit"):
        Fitter(small(width=24)).load_state_dict(a.state_dict())


def mixture(rows, seed):
    g, problem = torch.Generator().manual_seed(seed), Mixture()
    x = problem.draw_aux(rows, g)
    return TensorDict({AUX: x.unsqueeze(1), "state": problem.draw_state(x, g)}, [rows])


def test_a_fitter_in_the_documented_order_gives_hypotheses_as_wide_as_the_posterior():
    torch.manual_seed(0)
    model = GlobeDiff(8, 16, preset="fast", width=32, center_width=32, latent_dim=0, num_samples=16)
    fitter, g = Fitter(model, lr=3e-3), torch.Generator().manual_seed(0)
    train, held_out, test = pairs_of(model, mixture(8000, 100)), pairs_of(model, mixture(2000, 102)), mixture(500, 101)

    def spread():
        return spread_over_error(model(test.clone())["agents", "hypotheses"][:, 0], test["state"])

    fitter.set_statistics(*train.spread(8000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(400):
            if step == 60:
                fitter.update_residual_scale(*train.spread(8000))
            fitter.step(train.draw(128, g), center_only=step < 60)
    assert spread() < 0.3
    fitter.update_final_scale(*held_out.spread(2000))
    assert 0.8 < spread() < 1.2
    td = model(test.clone())
    assert not torch.equal(td["agents", "inferred_blend"], td[INFERRED])


def test_the_order_of_the_documentation_measures_everything():
    page = (Path(__file__).parent.parent / "docs/state-models.md").read_text()
    first, *_, second = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names = {}
    exec(first.split("globediff = GlobeDiff(")[0], names)
    exec(second.replace("1000", "40").replace("150", "6"), names)
    model = names["globediff"]
    assert names["fitter"].steps == 40
    assert (model.residual_scale != 1).all() and (model.final_scale > 0).all()
    assert (model.open_share[:8] < 0.9).all()  # what x tells, after a few steps
    assert not torch.equal(model.open_share, model.residual_scale.square().clamp(max=1))  # measured again at the end


class PlainLoss(LossModule):
    """A loss of TorchRL's kind, with no key of ours, that reads every row: NaN of x, of s and of its own ``factor``."""

    def __init__(self, model):
        super().__init__()
        self.model, self.factor = model, 1.0

    def forward(self, tensordict):
        error = self.model.net(tensordict[AUX]).mean() - tensordict["state"].mean()
        return TensorDict({"loss_plain": error.square() * self.factor}, [])


class PlainlyTrained(MLPStateModel):
    def make_loss(self):
        return PlainLoss(self)


@pytest.mark.parametrize("at_fault", [AUX, "state", None])
def test_a_loss_without_our_keys_that_is_not_finite_is_explained_by_the_models_own(at_fault):
    fitter, td = Fitter(PlainlyTrained(4, 3, width=16)), data()
    td["agents", "active_mask"] = torch.arange(64).reshape(64, 1, 1).expand(64, 2, 1) > 0  # the first row is dead
    assert fitter.step(td)["loss_plain"].isfinite()
    if at_fault is None:
        fitter.loss.factor = torch.inf
        says = "not finite although x and s are"
    else:
        td[at_fault][0].view(-1)[0] = torch.nan
        says = f"{re.escape(repr(at_fault))} holds 1 of {td[at_fault].numel()} values that are NaN"
    with pytest.raises(UserError, match=says):
        fitter.step(td)


def warned(model, steps, fitter=None, **settings):
    """How often a Fitter warns in so many steps."""
    fitter = fitter or Fitter(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            fitter.step(data(4), **settings)
    return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def test_a_centred_model_whose_residual_scale_was_never_measured_is_told_of_once():
    model = small(preset="fast")
    fitter = Fitter(model)
    assert warned(model, 20, fitter, center_only=True) == [] and warned(model, 99, fitter) == []
    assert warned(model, 2, fitter, center_only=True) == []
    (said,) = warned(model, 20, fitter)
    assert "100 full steps" in said and "fitter.update_residual_scale(x, s)" in said and "\n" not in said


def test_a_model_that_is_not_centred_or_goes_on_from_a_fit_is_not_warned_of(monkeypatch):
    monkeypatch.setattr("globediff_torchrl.state_models.fitter.UNMEASURED_STEPS", 5)
    assert warned(small(preset="fast"), 6) != []
    for model in (small(preset="fast", center="none"), MLPStateModel(4, 3, width=16), VAEStateModel(4, 3, width=16)):
        assert warned(model, 6) == []
    model = small(preset="fast")
    fit(model, data(), steps=2, batch_size=4, progress=False)
    assert warned(model, 6) == []
    resumed = Fitter(small(preset="fast"))
    resumed.load_state_dict(Fitter(model).state_dict())
    assert warned(resumed.model, 6, resumed) == []


class Normed(MLPStateModel):
    """Its net normalises by batch statistics while it is trained, and by their running average afterwards."""

    def __init__(self):
        super().__init__(4, 2, width=16, layers=1)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))


def test_running_statistics_reach_the_model_that_acts_and_outlive_what_is_measured():
    torch.manual_seed(0)
    model, x = Normed(), torch.randn(500, 4) + 3
    pairs = TensorDict({AUX: x[:, None], "state": x[:, :2]}, [500])
    fitter = Fitter(model, lr=1e-2)
    for _ in range(100):
        fitter.step(pairs)
    fitter.update_final_scale(x, x[:, :2])
    assert fitter.raw.net[1].num_batches_tracked == model.net[1].num_batches_tracked == 100
    with torch.no_grad():
        error = (model(pairs)[INFERRED][:, 0] - pairs["state"]).square().mean()
    assert error < 0.05  # without the statistics, those of a fresh BatchNorm: above 1
    assert fitter.raw.net[1].num_batches_tracked == model.net[1].num_batches_tracked == 100  # to act changes none
    assert fitter.raw.training and not model.training


def test_what_was_frozen_stays_and_a_model_that_was_fitted_is_trained_as_a_whole():
    model = MLPStateModel(4, 3, width=16)
    model.net[0].requires_grad_(False)
    first, last = model.net[0].weight.clone(), model.net[-1].weight.clone()
    Fitter(model, lr=1e-2).step(data())
    assert torch.equal(model.net[0].weight, first) and not torch.equal(model.net[-1].weight, last)
    Fitter(model, lr=1e-2).step(data())
    assert not torch.equal(model.net[0].weight, first)


def test_inference_mode_is_refused_before_anything_is_trained():
    with torch.inference_mode(), pytest.raises(UserError, match=r"inside torch.inference_mode\(\)"):
        fit(MLPStateModel(4, 3), data(), steps=1, progress=False)


def test_weights_loaded_behind_a_fitters_back_are_what_it_goes_on_from():
    """It trains a copy, of which the next average would have been mostly made."""
    fitted, late = small(), small()
    for parameter in fitted.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    early = Fitter(late, lr=1e-4)
    early.step(data())
    late.load_state_dict(fitted.state_dict())
    fresh = Fitter(copy.deepcopy(fitted), lr=1e-4)
    for fitter in (early, fresh):
        torch.manual_seed(2)
        fitter.step(data(seed=3))
        fitter.step(data(seed=4))
    assert torch.equal(weights_of(early.model), weights_of(fresh.model))
    assert torch.equal(weights_of(early.raw), weights_of(fresh.raw))


def test_what_is_measured_on_the_model_alone_stays_and_the_optimiser_goes_on():
    model, x, s = small(), data()[AUX], data()["state"]
    fitter = Fitter(model)
    fitter.step(data())
    raw = weights_of(fitter.raw)
    model.set_statistics(3 * x, 2 * s + 1)
    spread = model.state_spread.clone()
    fitter.step(data())
    assert torch.equal(model.state_spread, spread) and torch.equal(fitter.raw.state_spread, spread)
    assert fitter.steps == 2 and len(fitter.optimizer.state) and not torch.equal(weights_of(fitter.raw), raw)


def test_a_copy_of_a_fitter_goes_on_as_the_fitter_does():
    one = Fitter(small())
    one.step(data())
    other = copy.deepcopy(one)
    for fitter in (one, other):
        torch.manual_seed(2)
        fitter.step(data(seed=3))
    assert torch.equal(weights_of(one.model), weights_of(other.model))
    assert torch.equal(weights_of(one.raw), weights_of(other.raw))
