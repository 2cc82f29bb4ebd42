"""Arguments of the state models: what cannot be meant is refused, in the constructor, from an env and from files."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import set_exploration_type

from globediff_torchrl.envs import Task
from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import Fitter, GlobeDiff, MLPStateModel, VAEStateModel, fit, make_state_model
from globediff_torchrl.state_models.presets import FIT

X, S = 6, 5
UNITS = {"denoiser": "unet", "tokens": "entity", "token_index": [[0, 1], [2, 3], [4, -1]]}


def small(**settings):
    torch.manual_seed(0)
    return GlobeDiff(X, S, **{"width": 16, "latent_dim": 3, "latent_width": 16, **settings})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diffusion_steps": 0}, "diffusion_steps must be a whole number above 0, got 0"),
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
        ({"diffusion_steps": True}, "diffusion_steps must be a whole number above 0, got True"),
        ({"diffusion_steps": "5"}, "diffusion_steps must be a whole number above 0, got '5'"),
        ({"num_samples": True}, "num_samples expects an integer"),
        ({"clip": -1}, "clip expects a number above 0, got -1"),
        ({"clip": "3"}, "clip expects a number above 0, got '3'"),
        ({"schedule_options": {"first": "a"}}, "first of the log_snr schedule expects a number, got 'a'"),
        (
            {"preset": "fast", "schedule_options": {"first": 2.0}},
            "first=2.0 of the log_snr .* with diffusion_steps=1, expected last.*leave first away",
        ),
        ({"tokens": "entity", "token_index": [[0]]}, "tokens='entity' is read by nothing.*expected denoiser='unet'"),
        ({"latent_modes": 4, "latent_dim": 0}, "latent_modes=4 is read by nothing.*a latent_dim above 0"),
        ({"latent_modes": 4, "latent_prior": "standard"}, "latent_prior='learned' and.*leave latent_modes away"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        GlobeDiff(**{"aux_dim": X, "state_dim": S, **arguments})


def test_numbers_that_can_be_meant_are_taken():
    model = small(beta_kl=0, clip=3, final_noise=True, diffusion_steps=2, schedule_options={"last": -4})
    assert (model.beta_kl, model.sampler.clip, model.final_noise) == (0, 3, True)


@pytest.mark.parametrize("without", [{"latent_dim": 0}, {"latent_prior": "standard"}])
def test_a_presets_own_modes_are_no_mistake_without_a_learned_prior(tmp_path, without):
    model = small(preset="fast", **without)
    assert model.prior is None
    assert GlobeDiff(**model.config).config == model.config
    assert reload(tmp_path, model, num_samples=2).prior is None


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_with_as_many_steps_fast_and_tuned_are_one_model(steps):
    configs = [GlobeDiff(8, 6, preset=preset, diffusion_steps=steps).config for preset in ("fast", "tuned")]
    assert {**configs[0], "preset": "tuned"} == configs[1]
    few = steps <= 2
    expected = ("mlp", 32, "ddim", 0.02) if few else ("gated", 1, "dpmpp", 0.1)
    assert tuple(configs[0][name] for name in ("denoiser", "latent_modes", "sampler", "beta_kl")) == expected
    given = GlobeDiff(8, 6, diffusion_steps=steps, denoiser="gated", latent_modes=3, sampler="dpmpp").config
    assert (given["denoiser"], given["latent_modes"], given["sampler"]) == ("gated", 3, "dpmpp")


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

    task = Task("fake", 3, None, None, (), "history", X, None, "")
    observation_spec = {("agents", "aux_observation"): torch.zeros(4, 3, X), "state": torch.zeros(4, S)}
    device = torch.device("cpu")


def reload(folder, model, **overrides):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, **overrides)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: GlobeDiff.from_env(Env(), diffusion_step=2), "'diffusion_step': did you mean 'diffusion_steps'"),
        (lambda _: MLPStateModel.from_env(Env(), infer_pre="team"), "'infer_pre': did you mean 'infer_per'"),
        (lambda here: reload(here, small(), num_sample=3), "'num_sample': did you mean 'num_samples'"),
        (lambda here: reload(here, VAEStateModel(X, S), latent_dims=3), "did you mean 'latent_dim'"),
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


@pytest.mark.parametrize(
    ("model", "override"),
    [
        (small(), {"prediction": "eps"}),
        (small(), {"schedule": "vp"}),
        (small(), {"schedule": None, "preset": "paper"}),
        (small(), {"schedule_options": {"last": -4.0}}),
        (small(), {"diffusion_steps": 4}),
        (small(), {"final_noise": True}),
        (small(), {"width": 24}),
        (small(**UNITS), {"token_index": torch.tensor([[2, 3], [0, 1], [4, -1]])}),
        (MLPStateModel(X, S, width=16), {"preset": "paper"}),  # another activation
        (VAEStateModel(X, S, width=16), {"latent_dim": 3}),
    ],
)
def test_what_the_weights_were_trained_with_is_not_overridden(tmp_path, model, override):
    with pytest.raises(UserError, match=r"or none, got.*What can be overridden is .*infer_per"):
        reload(tmp_path, model, **override)


def test_what_the_weights_do_not_depend_on_is_overridden_and_what_is_saved_may_be_repeated(tmp_path):
    model = small(schedule_options={"last": -4.0})
    others = {"sampler": "ddim", "clip": 3.0, "num_samples": 2, "deterministic": "prior_mean", "noise": "fixed"}
    others |= {"infer_per": "team", "inferred_key": "guess", "beta_kl": 0.5, "levels": "noisy", "dims": "equal"}
    loaded = reload(tmp_path, model, **others, prediction="v", preset="tuned", width=16)
    assert {name: loaded.config[name] for name in others} == others
    assert torch.equal(loaded.schedule.alpha_bar, model.schedule.alpha_bar)
    assert not GlobeDiff.from_pretrained(tmp_path, sample=False).sample
    assert set(others) | {"sample"} <= set(GlobeDiff.overridable) <= set(model.config)
    index = torch.tensor(UNITS["token_index"])
    assert reload(tmp_path, small(**UNITS), token_index=index).config["token_index"] == index.tolist()


def test_a_copy_with_more_samples_is_the_model_that_is_loaded_with_them(tmp_path):
    model = small(preset="fast").train()
    for parameter in model.parameters():
        parameter.data.normal_()
    copy, loaded = model.with_arguments(num_samples=5), reload(tmp_path, model, num_samples=5)
    x = TensorDict({("agents", "aux_observation"): torch.randn(4, 2, X)}, [4])
    with set_exploration_type("deterministic"):
        ours, theirs = copy(x.clone()), loaded(x.clone())
    assert ours["agents", "hypotheses"].shape == (4, 2, 5, S) and (ours == theirs).all()
    assert len(ours["agents", "hypotheses"][0, 0].unique(dim=0)) == 5, "five of them, not one five times"
    assert copy.training and copy.num_samples == 5 and model.num_samples == 1
    assert copy.double().with_arguments(num_samples=2).state_mean.dtype == torch.float64
    with pytest.raises(UserError, match=r"or none, got"):
        model.with_arguments(prediction="x0")
    with pytest.raises(AttributeError, match="num_samples"):
        model.num_samples = 5


def test_numpys_numbers_are_numbers(tmp_path):
    model = GlobeDiff(np.int64(X), np.int32(S), np.int64(2), beta_kl=np.float32(0.5), width=np.int64(16))
    loaded = reload(tmp_path, model)
    assert (loaded.aux_dim, loaded.config["diffusion_steps"], loaded.config["beta_kl"]) == (X, 2, 0.5)
    data = TensorDict({("agents", "aux_observation"): torch.randn(8, 1, X), "state": torch.randn(8, S)}, [8])
    histories = [
        fit(small(), data, steps=kind(3), batch_size=kind(4), seed=kind(1), progress=False) for kind in (int, np.int64)
    ]
    assert histories[0] == histories[1]


def test_a_model_of_ones_own_says_itself_what_may_be_overridden(tmp_path):
    class Linear(MLPStateModel):
        overridable = None

    assert reload(tmp_path, Linear(X, S, width=16), preset="paper").preset == "paper"


def test_a_fit_takes_the_presets_steps_and_other_models_three_thousand():
    for preset, settings in FIT.items():
        assert GlobeDiff(X, S, preset=preset, width=16, latent_width=16).fit_defaults() == settings
    assert {name: settings["steps"] for name, settings in FIT.items()} == {"tuned": 5000, "fast": 3000, "paper": 3000}
    for kind in (MLPStateModel, VAEStateModel):
        for preset in ("tuned", "paper"):
            own = {"lr": {MLPStateModel: 3e-4, VAEStateModel: 1e-4}[kind]} if preset == "paper" else {}  # Table 4
            assert kind(X, S, preset=preset).fit_defaults() == {**FIT[preset], "steps": 3000, **own}


def test_a_copy_of_a_fitted_model_builds_no_graph_either():
    model = small()
    assert all(p.requires_grad for p in model.with_arguments(num_samples=2).parameters())
    Fitter(model)
    assert not any(p.requires_grad for p in model.with_arguments(num_samples=2).parameters())
