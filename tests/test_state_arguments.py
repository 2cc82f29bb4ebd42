"""Arguments of the state models: what cannot be meant is refused, in the constructor, from an env and from files."""

from types import SimpleNamespace

import pytest
import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import GlobeDiff, MLPStateModel, VAEStateModel, make_state_model
from globediff_torchrl.state_models.presets import FIT

X, S = 6, 5


def small(**settings):
    torch.manual_seed(0)
    return GlobeDiff(X, S, **{"width": 16, "latent_dim": 3, "latent_width": 16, **settings})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diffusion_steps": 0}, "diffusion_steps expects an integer >= 1, got 0"),
        ({"preset": "tunned"}, "tuned"),
        ({"schedule": "linear"}, "does not end in noise"),
        ({"sampler": "ddpm"}, "ancestral"),
        ({"prediction": "x"}, "x0"),
        ({"center": "mean"}, "regression"),
        ({"denoiser": "cnn"}, "unet"),
        ({"denoiser": "unet", "tokens": "entity"}, "token_index"),
        ({"infer_per": "world"}, "team"),
        ({"num_samples": 0}, "num_samples"),
        ({"latent_dim": -1}, "latent_dim"),
        ({"beta_kl": -0.1}, "beta_kl"),
        ({"width": 0}, "width"),
        ({"sample": False, "center": "none"}, "center='regression'"),
        ({"aux_dim": 0}, "aux_dim"),
        ({"state_dim": -3}, "state_dim"),
        ({"state_dim": True}, "state_dim"),
        ({"beta_kl": "abc"}, "beta_kl expects a number >= 0, got 'abc'"),
        ({"beta_kl": float("nan")}, "beta_kl expects a number >= 0, got nan"),
        ({"final_noise": "yess"}, "final_noise expects True or False, got 'yess'"),
        ({"sample": "no"}, "sample expects True or False"),
        ({"sample": None}, "sample expects True or False"),
        ({"diffusion_steps": True}, "diffusion_steps expects an integer >= 1, got True"),
        ({"diffusion_steps": "5"}, "diffusion_steps expects an integer >= 1, got '5'"),
        ({"num_samples": True}, "num_samples expects an integer"),
        ({"clip": -1}, "clip expects a number above 0, got -1"),
        ({"clip": "3"}, "clip expects a number above 0, got '3'"),
        ({"schedule_options": {"first": "a"}}, "first of the log_snr schedule expects a number, got 'a'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        GlobeDiff(**{"aux_dim": X, "state_dim": S, **arguments})


def test_numbers_that_can_be_meant_are_taken():
    model = small(beta_kl=0, clip=3, final_noise=True, diffusion_steps=2, schedule_options={"last": -4})
    assert (model.beta_kl, model.sampler.clip, model.final_noise) == (0, 3, True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPStateModel(X, S, width=0), "width must be a whole number above 0, got 0"),
        (lambda: MLPStateModel(X, S, layers="2"), "layers must be a whole number"),
        (lambda: VAEStateModel(X, S, latent_dim=True), "latent_dim must be a whole number"),
        (lambda: VAEStateModel(X, S, beta_kl="abc"), "beta_kl expects a number >= 0, got 'abc'"),
    ],
)
def test_settings_of_the_other_models_are_checked_too(make, message):
    with pytest.raises(UserError, match=message):
        make()


class Env:
    """As much of an env as from_env reads."""

    task = SimpleNamespace(aux="history")
    observation_spec = {("agents", "aux_observation"): torch.zeros(4, 3, X), "state": torch.zeros(4, S)}


def reload(folder, model, **overrides):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, **overrides)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: GlobeDiff.from_env(Env(), diffusion_step=2), "'diffusion_step': did you mean 'diffusion_steps'"),
        (lambda _: MLPStateModel.from_env(Env(), infer_pre="team"), "'infer_pre': did you mean 'infer_per'"),
        (lambda here: reload(here, small(), num_sample=3), "'num_sample': did you mean 'num_samples'"),
        (lambda here: reload(here, VAEStateModel(X, S), zero_latents=True), "did you mean 'zero_latent'"),
        (lambda _: make_state_model("regressor", (X, S), widht=3), "'widht': did you mean 'width'"),
        (lambda _: make_state_model("globediff", Env(), widht=3), "'widht': did you mean 'width'"),
        (lambda _: make_state_model("globdiff", (X, S)), r"globdiff.*globediff"),
        (lambda _: make_state_model("globediff", (X, S, 3)), r"\(aux_dim, state_dim\), got \(6, 5, 3\)"),
    ],
)
def test_a_misspelt_argument_is_named_with_the_one_that_was_meant(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path)


def test_arguments_of_the_base_are_known_in_every_model():
    for name in ("regressor", "vae", "oracle", "globediff"):
        assert make_state_model(name, (X, S), infer_per="team").infer_per == "team"
        assert make_state_model(name, Env(), infer_per="team", aux_dim=9).aux_dim == 9


def test_a_type_error_of_a_constructors_own_is_not_hidden(monkeypatch):
    def broken(self, aux_dim, state_dim):
        raise TypeError("f() got an unexpected keyword argument")

    monkeypatch.setattr(MLPStateModel, "__init__", broken)
    with pytest.raises(TypeError, match="unexpected keyword"):
        make_state_model("regressor", (X, S))


def test_another_schedule_takes_its_own_options_and_its_own_levels(tmp_path):
    model = small(schedule_options={"last": -4.0})
    loaded = reload(tmp_path, model, schedule="vp")
    fresh = small(schedule="vp")
    assert loaded.schedule.options == fresh.schedule.options
    assert torch.equal(loaded.schedule.alpha_bar, fresh.schedule.alpha_bar)  # not those that were saved
    assert reload(tmp_path, fresh, schedule=None).schedule.options == small().schedule.options  # the preset's
    assert reload(tmp_path, model, schedule="log_snr").schedule.options["last"] == -4.0
    assert reload(tmp_path, model, schedule="vp", schedule_options={"b_max": 12.0}).schedule.options["b_max"] == 12.0


def test_a_fit_takes_the_presets_steps_and_other_models_three_thousand():
    for preset, settings in FIT.items():
        assert GlobeDiff(X, S, preset=preset, width=16, latent_width=16).fit_defaults() == settings
    assert {name: settings["steps"] for name, settings in FIT.items()} == {"tuned": 5000, "fast": 3000, "paper": 3000}
    for kind in (MLPStateModel, VAEStateModel):
        for preset in ("tuned", "paper"):
            assert kind(X, S, preset=preset).fit_defaults() == {**FIT[preset], "steps": 3000}
