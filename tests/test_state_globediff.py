"""GlobeDiff as a module: keys, shapes, randomness, standardisation, files."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import AUX, INFERRED, S, X, batch, make
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl.envs import Task
from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import GlobeDiff, MLPStateModel, OracleStateModel, VAEStateModel, make_state_model

MEAN, LATENT, HYPOTHESES = ("agents", "inferred_mean"), ("agents", "latent"), ("agents", "hypotheses")
BLEND = ("agents", "inferred_blend")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    n=st.integers(1, 4),
    hypotheses=st.integers(1, 3),
    per=st.sampled_from(["agent", "team"]),
    center=st.sampled_from(["none", "regression"]),
    latent=st.sampled_from([0, 2]),
)
def test_out_keys_and_shapes_for_any_batch(shape, n, hypotheses, per, center, latent):
    model = make(num_samples=hypotheses, infer_per=per, center=center, latent_dim=latent)
    td = model(batch(*shape, n=n))
    expected = {INFERRED: (S,)}
    if hypotheses > 1:
        expected[HYPOTHESES] = (hypotheses, S)
    if center == "regression":
        expected[MEAN] = expected[BLEND] = (S,)
    if latent:
        expected[LATENT] = (latent,)
    assert set(model.out_keys) == set(expected)
    for key, event in expected.items():
        assert td[key].shape == (*shape, n, *event)
    if hypotheses > 1:
        assert torch.equal(td[HYPOTHESES][..., 0, :], td[INFERRED])


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 5), n=st.integers(1, 3), preset=st.sampled_from(["tuned", "fast", "paper"]))
def test_deterministic_inference_depends_on_x_alone_not_on_the_batch(rows, n, preset):
    model = make(preset=preset, num_samples=2, width=8)
    td = batch(rows, n=n)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        whole = model(td.clone())[HYPOTHESES]
        again = model(td.clone())[HYPOTHESES]
        single = torch.stack([model(td[i].clone())[HYPOTHESES] for i in range(rows)])
    assert torch.equal(whole, again)
    torch.testing.assert_close(whole, single, rtol=1e-3, atol=1e-4)


def test_the_blend_has_no_share_of_the_final_noise_which_is_independent_in_each_dim():
    model, data = make(diffusion_steps=1, final_noise=True), batch(50)
    model.open_share.fill_(0.5)
    inferred = []
    for scale in (0.0, 3.0):
        model.final_scale.fill_(scale)
        torch.manual_seed(0)
        inferred.append(model(data.clone()))
    quiet, noisy = inferred
    assert (noisy[INFERRED] - quiet[INFERRED]).std() > 1
    assert torch.equal(noisy[BLEND], quiet[BLEND])
    torch.testing.assert_close(quiet[BLEND], (quiet[MEAN] + quiet[INFERRED]) / 2)


def test_team_inference_is_agent_zeros_for_everyone():
    per_agent, per_team = make(infer_per="agent"), make(infer_per="team")
    td = batch(4)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        alone, shared = per_agent(td.clone()), per_team(td.clone())
    for key in per_team.out_keys:
        torch.testing.assert_close(shared[key], alone[key][:, :1].expand(-1, 3, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["globediff", "regressor", "vae"])
def test_the_true_state_is_not_read_at_execution(name):
    model = make_state_model(name, (X, S), width=16)
    assert "state" not in model.in_keys
    td = batch(4)
    poisoned = td.clone().set("state", torch.full((4, S), torch.nan))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(model(td)[INFERRED], model(poisoned)[INFERRED])


def test_sample_false_writes_the_mean_and_runs_no_chain():
    model = make(sample=False, num_samples=4)
    model.denoiser = None
    td = model(batch(4))
    assert torch.equal(td[INFERRED], td[MEAN])
    assert set(td.keys(True, True)) == {AUX, *model.out_keys} == {AUX, INFERRED, MEAN}


@pytest.mark.parametrize("model", [make(num_samples=2), MLPStateModel(X, S, width=16), VAEStateModel(X, S, width=16)])
def test_constant_dims_come_back_exactly(model):
    torch.manual_seed(0)
    s = torch.randn(500, S) * 3 + 1
    s[:, 1], s[:, 3] = 0.1, 0.0
    model.set_statistics(torch.randn(500, X), s)
    td = model(batch(20))
    assert (td[INFERRED][..., 1] == s[0, 1]).all()
    assert (td[INFERRED][..., 3] == 0).all()


def test_standardisation_undoes_itself():
    model = make()
    s = torch.randn(500, S) * torch.tensor([0.01, 1.0, 50.0, 3.0, 1.0]) + 7
    model.set_statistics(torch.randn(500, X), s)
    torch.testing.assert_close(model.normalise_state(s).std(0), torch.ones(S))
    torch.testing.assert_close(model.restore_state(model.normalise_state(s)), s, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["tuned", "fast", "paper"])
def test_saved_and_loaded_models_give_equal_samples_under_one_seed(tmp_path, preset):
    model = make(preset=preset, width=8, num_samples=2)
    model.set_statistics(torch.randn(50, X), torch.randn(50, S))
    model.save_pretrained(tmp_path)
    loaded = GlobeDiff.from_pretrained(tmp_path)
    td = batch(4)
    torch.manual_seed(3)
    a = model(td.clone())
    torch.manual_seed(3)
    b = loaded(td.clone())
    assert loaded.out_keys == model.out_keys
    for key in model.out_keys:
        assert torch.equal(a[key], b[key])


def test_entity_tokens_survive_saving(tmp_path):
    model = make(denoiser="unet", width=8, tokens="entity", token_index=torch.tensor([[0, 1], [2, 3], [4, -1]]))
    model.save_pretrained(tmp_path)
    loaded = GlobeDiff.from_pretrained(tmp_path)
    assert torch.equal(loaded.denoiser.tokens.gather, model.denoiser.tokens.gather)


def test_foreign_or_torn_files_get_one_clear_message(tmp_path):
    make().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a GlobeDiff, expected a MLPStateModel"):
        MLPStateModel.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "config": {**config["config"], "width": 24}}))
    with pytest.raises(UserError, match="do not fit"):
        GlobeDiff.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "version": 99}))
    with pytest.raises(UserError, match=r"version 1, got .* version 99"):
        GlobeDiff.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        GlobeDiff.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="not found"):
        GlobeDiff.from_pretrained(tmp_path / "nowhere")


def test_a_wrong_x_is_refused_with_what_was_expected_and_what_came():
    model = make()
    with pytest.raises(UserError, match=r"last dim 6 .*got 7: was the model built with aux=joint"):
        model(TensorDict({AUX: torch.randn(2, 3, 7)}, [2]))
    with pytest.raises(UserError, match="not in the tensordict"):
        model(TensorDict({"state": torch.randn(2, S)}, [2]))
    with pytest.raises(UserError, match="floats"):
        model(TensorDict({AUX: torch.zeros(2, 3, X, dtype=torch.long)}, [2]))
    with pytest.raises(UserError, match="a dim for the agents"):
        model(TensorDict({AUX: torch.randn(X)}, []))


def test_keys_are_overridable():
    model = make(aux_key="x", inferred_key="s_hat", latent_key=("l", "z"), mean_key="m")
    td = model(TensorDict({"x": torch.randn(4, 2, X)}, [4]))
    assert model.in_keys == ["x"]
    assert {"s_hat", ("l", "z"), "m"} <= set(td.keys(True, True))


class FakeEnv:
    """As much of an env as from_env reads."""

    def __init__(self, aux="joint"):
        layout = SimpleNamespace(size=S, tokens=lambda: torch.tensor([[0, 1], [2, 3]]))
        self.task = Task("fake", 3, layout, layout, (), aux, X, None, "")
        self.observation_spec = {AUX: torch.zeros(4, 3, X), "state": torch.zeros(4, S)}
        self.device = torch.device("cpu")


@pytest.mark.parametrize(("aux", "per"), [("joint", "team"), ("joint_history", "team"), ("history", "agent")])
def test_from_env_takes_the_sizes_and_infers_once_a_team_where_x_is_joint(aux, per):
    model = GlobeDiff.from_env(FakeEnv(aux), denoiser="unet", tokens="entity", width=8)
    assert (model.aux_dim, model.state_dim, model.infer_per) == (X, S, per)
    assert model.denoiser.tokens.channels == 2


def test_from_env_says_what_is_missing():
    with pytest.raises(UserError, match="task"):
        GlobeDiff.from_env(object())
    with pytest.raises(UserError, match="aux='history'"):
        GlobeDiff.from_env(FakeEnv(None))


def test_oracle_copies_the_true_state_to_every_agent():
    model = OracleStateModel(X, S)
    td = batch(4).set("state", torch.randn(4, S))
    assert "state" in model.in_keys
    assert torch.equal(model(td)[INFERRED], td["state"][:, None].expand(4, 3, S))
    assert model.make_loss() is None
