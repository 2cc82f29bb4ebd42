"""The contract of a state model: nothing else asks which one is in use, and locked data can be given to all.

Of the documentation's own model too: what it does not do, nobody's would.
"""

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import dispatch, set_skip_existing
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import (
    STATE_MODELS,
    Fitter,
    GlobeDiff,
    StateModel,
    StateModelLoss,
    fit,
    make_state_model,
)

X, S = 4, 3
AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")
MODELS = {"globediff": {"width": 16}, "regressor": {"width": 16}, "vae": {"width": 16}, "oracle": {}, "linear": {}}
TRAINED = [name for name in MODELS if name != "oracle"]
EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "examples" / "state_model.py"


@pytest.fixture(autouse=True)
def documented(monkeypatch):
    """The documentation's model under its name, without the training behind it."""
    monkeypatch.setitem(STATE_MODELS, "linear", None)  # so that it is taken away again
    exec(compile(EXAMPLE.read_text().partition("\nenv = ")[0], EXAMPLE, "exec"), {"__name__": "example"})
    return STATE_MODELS["linear"]


def data(rows=12, n=2):
    g = torch.Generator().manual_seed(0)
    x, s = torch.randn(rows, n, X, generator=g), torch.randn(rows, S, generator=g)
    return TensorDict({AUX: x, "state": s}, [rows])


class Recorder(StateModel):
    """A state model of a user's own: a bias, and a list of what it was told."""

    def __init__(self, aux_dim, state_dim, **common):
        super().__init__(aux_dim, state_dim, **common)
        self.bias = torch.nn.Parameter(torch.zeros(state_dim))
        self.told = []

    def make_loss(self):
        return BiasLoss(self)

    def update_residual_scale(self, x, s):
        self.told.append(("residual", len(x)))

    def update_final_scale(self, x, s):
        self.told.append(("final", len(x)))


class BiasLoss(StateModelLoss):
    out_keys = ["loss_bias"]

    def terms(self, x, s, weights):
        self.model.told.append(self.center_only)
        return {"loss_bias": (self.model.bias - s).square().mean()}


def test_fit_tells_any_model_where_it_stands():
    model = Recorder(X, S)
    fitter = Fitter(model)
    fit(model, data(), steps=20, batch_size=4, progress=False, fitter=fitter, validation=data(5))
    assert fitter.raw.told == [True] * 3 + [False] * 17  # the copy that is trained
    assert [told for told in model.told if told] == [("residual", 24), ("final", 10)]  # on all pairs, and held-out ones


@pytest.mark.parametrize("config", [{}, {"aux_dim": X}, {"aux_dim": X, "state_dim": S, "widht": 8}])
def test_a_config_that_does_not_make_the_model_again_is_not_saved(tmp_path, config):
    model = Recorder(X, S)
    model.config = config
    with pytest.raises(
        UserError, match=r"least aux_dim, state_dim and none but aux_dim, .*got \{.*\}: set it in __init__"
    ):
        model.save_pretrained(tmp_path / "model")
    model.config = {"aux_dim": X, "state_dim": torch.tensor(S)}
    with pytest.raises(UserError, match=r"of Recorder to hold plain values.*got \{.*tensor.*by \.tolist"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model = Recorder(X, S, infer_per="team", inferred_key=("agents", "guess"))
    model.config = {"aux_dim": X, "state_dim": S, "inferred_key": ["agents", "guess"]}
    with pytest.raises(UserError, match=r"hold infer_per='team', got one from which a saved or copied .*'agent'"):
        model.save_pretrained(tmp_path / "model")
    model.config["infer_per"] = "team"
    model.save_pretrained(tmp_path / "model")
    loaded = Recorder.from_pretrained(tmp_path / "model")
    assert loaded.infer_per == "team" and not loaded.training


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_writes_stands_in_the_group_of_what_it_infers(name):
    model = make_state_model(name, (X, S), inferred_key=("fliers", "inferred_state"))
    assert {key[0] for key in model.out_keys} == {"fliers"}
    usual = make_state_model(name, (X, S)).out_keys
    assert [key[1:] for key in model.out_keys] == [key[1:] for key in usual]


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_that_infers_into_another_group_writes_all_into_it(name, tmp_path):
    model = make_state_model(name, (X, S))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, inferred_key=("fliers", "inferred_state"))
    assert {key[0] for key in loaded.out_keys} == {"fliers"}


@pytest.mark.parametrize(
    ("terms", "says"),
    [({"mse": ()}, r"mse \[\] of BiasLoss: name one so"), ({"loss_a": (4,)}, r"loss_a \[4\] .*take its mean")],
)
def test_terms_that_cannot_be_minimised_are_named(monkeypatch, terms, says):
    made = {name: torch.ones(shape, requires_grad=True) for name, shape in terms.items()}
    monkeypatch.setattr(BiasLoss, "terms", lambda *_: made)
    with pytest.raises(UserError, match=f"scalars, of which those named loss_... are minimised, got {says}"):
        fit(Recorder(X, S), data(), steps=2, batch_size=4, progress=False)


@pytest.mark.parametrize("name", ["regressor", "vae"])
def test_a_model_that_has_nothing_to_measure_is_fitted_all_the_same(name):
    model = make_state_model(name, (X, S), width=16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fitter = Fitter(model)
    fitter.update_residual_scale(data()[AUX][:, 0], data()["state"])
    fitter.update_final_scale(data()[AUX][:, 0], data()["state"])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert fit(model, data(), steps=4, batch_size=4, progress=False, fitter=fitter)["step"] == [4]


def test_a_plain_state_model_has_no_loss():
    assert StateModel(X, S).make_loss() is None
    with pytest.raises(UserError, match="nothing to fit"):
        Fitter(StateModel(X, S))


@pytest.mark.parametrize("name", MODELS)
def test_locked_and_memory_mapped_data_are_answered_in_a_copy_that_shares_them(tmp_path, name):
    model = make_state_model(name, (X, S), **MODELS[name])
    mapped = data().memmap(tmp_path)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = model(data())[INFERRED]
        for td in (mapped, data().lock_()):
            out = model(td)
            torch.testing.assert_close(out[INFERRED], expected)
            assert out[AUX].data_ptr() == td[AUX].data_ptr()
            assert set(td.keys(True, True)) == {AUX, "state"}
        for part in (mapped[3:7], TensorDict.load_memmap(tmp_path)[3:7]):
            torch.testing.assert_close(model(part)[INFERRED], expected[3:7])
        plain = data()
        assert model(plain) is plain


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_of_a_fitted_model_says_that_nothing_would_be_trained(name):
    model = make_state_model(name, (X, S), **MODELS[name])
    fit(model, data(), steps=2, batch_size=4, progress=False)
    loss = model.make_loss()
    with pytest.raises(UserError, match=r"expects a model whose parameters require grad.*call model.requires_grad_"):
        loss(data())
    with torch.no_grad():
        assert all(term.isfinite() for term in loss(data()).values())
    model.requires_grad_(True)
    sum(value for key, value in loss(data()).items() if key.startswith("loss_")).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_tensors_are_answered_as_a_tensordict_of_them_is(name, shape):
    model = make_state_model(name, (X, S), **MODELS[name])
    td = data(12).reshape(*shape, -1)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = model(td.clone())
        found = model(*(td[key] for key in model.in_keys))
    found = found if isinstance(found, tuple) else (found,)  # of one out_key the tensor itself, as TorchRL does
    assert len(found) == len(model.out_keys)
    for key, value in zip(model.out_keys, found):
        torch.testing.assert_close(value, expected[key])


class Decorated(StateModel):
    """A model of a user's own that wraps its forward as TorchRL's modules do."""

    @dispatch(auto_batch_size=False)
    @set_skip_existing(None)
    def forward(self, tensordict):
        x, lead, n = self.read_aux(tensordict)
        self.write(tensordict, self.inferred_key, x[:, : self.state_dim], lead, n)
        return tensordict


def test_a_forward_that_is_wrapped_as_torchrls_are_is_taken_as_it_is():
    model, td = Decorated(X, S), data()
    torch.testing.assert_close(model(td[AUX]), td[AUX][..., :S])
    there = td.clone().set(INFERRED, torch.full((12, 2, S), 7.0))
    with set_skip_existing(True):
        assert (model(there)[INFERRED] == 7).all()


def test_a_forward_of_another_argument_is_refused_where_it_is_written():
    with pytest.raises(UserError, match=r"forward of Mine expects .* tensordict.*got forward\(self, td\): rename it"):
        type("Mine", (StateModel,), {"forward": lambda self, td: td})


EXPORTED = {
    "fast": {"preset": "fast", "num_samples": 2},
    "fixed": {"preset": "fast", "noise": "fixed", "infer_per": "team"},
    "unet": {"preset": "fast", "denoiser": "unet", "tokens": "entity", "token_index": [[0, 1], [2, -1]], "blocks": 1},
    "regressor": {},
    "vae": {},
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_model_exported_at_one_batch_size_is_the_same_at_another(name):
    torch.manual_seed(0)
    kind = name if name in MODELS else "globediff"
    model = make_state_model(kind, (X, S), **{"width": 8, **EXPORTED[name]})
    for parameter in model.parameters():  # a fresh denoiser gives zeros
        torch.nn.init.normal_(parameter, std=0.3)
    rows = ({0: torch.export.Dim("rows")},)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        program = torch.export.export(model, (torch.randn(5, 2, X),), dynamic_shapes=rows, strict=False).module()
        x = torch.randn(9, 2, X)
        for found, expected in zip(program(x), model(x), strict=True):
            torch.testing.assert_close(found, expected)
            assert found.shape[:2] == (9, 2)


@pytest.mark.parametrize("name", MODELS)
def test_what_stands_there_is_left_alone_where_tensordict_is_told_so(name):
    model, td = make_state_model(name, (X, S), **MODELS[name]), data()
    there = {key: torch.full((12, 2, S), 7.0) for key in model.out_keys}
    with torch.no_grad(), set_skip_existing(True):
        assert INFERRED in model(td.clone())
        assert (model(td.clone().update(there))[INFERRED] == 7).all()
    assert (model(td.clone().update(there))[INFERRED] != 7).all()


@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_of_tensors_gives_its_terms_in_order(name):
    loss, td = make_state_model(name, (X, S), **MODELS[name]).make_loss(), data()
    found = []
    for arguments, named in (((td,), {}), ((td[AUX], td["state"]), {}), ((), td.flatten_keys("_").to_dict())):
        torch.manual_seed(0)
        found.append(loss(*arguments, **named))
    terms = tuple(found[0][key] for key in loss.out_keys)
    assert found[0].keys() == set(loss.out_keys)
    for one in found[1:]:
        assert (one if isinstance(one, tuple) else (one,)) == terms


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
def test_any_batch_shape_is_answered_row_by_row(name, shape):
    model, n = make_state_model(name, (X, S), **MODELS[name]), 2
    x = torch.randn(*shape, n, X)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        found = model(TensorDict({AUX: x}, shape))[INFERRED]
        rows = [model(TensorDict({AUX: row}, []))[INFERRED] for row in x.reshape(-1, n, X)]
    assert found.shape == (*shape, n, S)
    if rows:
        torch.testing.assert_close(found.reshape(-1, n, S), torch.stack(rows))


@pytest.mark.parametrize(("preset", "steps"), [("tuned", 5000), ("fast", 3000)])
def test_fit_plans_the_presets_steps(tmp_path, preset, steps):
    model = GlobeDiff(X, S, preset=preset, width=16, latent_width=16)
    file = tmp_path / "fit.pt"
    fit(model, data(), batch_size=4, progress=False, checkpoint=file, stop_at=1)
    assert torch.load(file, weights_only=True)["plan"]["steps"] == steps
    with pytest.raises(UserError, match="steps of fit must be a whole number above 0, got True"):
        fit(model, data(), steps=True)
    with pytest.raises(UserError, match="batch_size of fit must be a whole number above 0, got 0"):
        fit(model, data(), batch_size=0)
