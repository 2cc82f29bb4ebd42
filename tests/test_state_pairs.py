"""What a state model is fitted to: who counts, which shapes belong together, and whom the statistics see."""

import pytest
import torch
from tensordict import TensorDict

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import Fitter, GlobeDiff, MLPStateModel, fit
from globediff_torchrl.state_models import pairs as pairs_module
from globediff_torchrl.state_models.pairs import TensorDictPairs, random_indices
from globediff_torchrl.state_models.reading import read_pairs
from globediff_torchrl.studies.probe import RowPairs

AUX, MASK = ("agents", "aux_observation"), ("agents", "active_mask")


def regressor(**settings):
    return MLPStateModel(4, 3, width=16, **settings)


def data(rows=64, n=2, own=False):
    """x is (row, agent, 0, 0) and s (row, agent or 0, 0), so that a pair says where it is from."""
    row, agent = torch.arange(float(rows)), torch.arange(float(n))
    x = torch.zeros(rows, n, 4)
    x[..., 0], x[..., 1] = row[:, None], agent
    s = x[..., :3].clone() if own else x[:, 0, :3].clone()
    return TensorDict({AUX: x, "state": s}, [rows])


@pytest.mark.parametrize("shuffled", [10_000_000, 1000])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_statistics_see_every_agent_and_every_time_of_an_episode(monkeypatch, n, shuffled):
    monkeypatch.setattr(pairs_module, "SHUFFLED", shuffled)
    rows, size, length = 55_296 // n, 4096, 32  # a stride of 13 pairs, or one that shares factors with n and length
    x, s = TensorDictPairs(regressor(), data(rows, n, own=True)).spread(size)
    assert 0.9 * size < len(x) <= size
    assert torch.equal(x[:, :2], s[:, :2])
    assert len(x.unique(dim=0)) == len(x)
    for value, kinds in ((x[:, 1], n), (x[:, 0] % length, length), (x[:, 0] * 10 // rows, 10)):
        found = torch.bincount(value.long(), minlength=kinds) / len(x)
        torch.testing.assert_close(found, torch.full((kinds,), 1 / kinds), rtol=0.35, atol=0)


def test_the_rows_of_a_probe_are_measured_at_every_agent():
    rows = torch.arange(64_000)
    x, _ = RowPairs(regressor(), lambda chosen: (chosen[:, None] % 4, chosen), rows).spread(16_000)
    assert torch.bincount(x.flatten(), minlength=4).min() > 3500


def test_few_rows_are_taken_whole_and_in_order():
    assert torch.equal(random_indices(5, 9), torch.arange(5))
    some = random_indices(100, 9)
    assert len(some) == 9 and (some.diff() > 0).all() and torch.equal(some, random_indices(100, 9))


def test_the_statistics_of_a_wide_x_are_taken_from_fewer_rows(monkeypatch):
    pairs = TensorDictPairs(regressor(), data(64))
    assert len(pairs.spread(100)[0]) == 100
    monkeypatch.setattr(pairs_module, "STATISTICS_NUMBERS", 4 * 32)
    x, s = pairs.spread(100)
    assert len(x) == len(s) == 32


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("shape", [(64, 2, 1), (64, 2)])
def test_a_mask_of_any_dtype_leaves_out_the_dead_and_counts_the_others_alike(dtype, shape):
    td = data()
    mask = torch.ones(64, 2, dtype=torch.bool)
    mask[::2] = False  # even rows
    mask[:, 1] = False  # agent 1
    td[MASK] = mask.to(dtype).reshape(shape)
    td[MASK] = td[MASK] if dtype == torch.bool else 3 * td[MASK]
    x, s = TensorDictPairs(regressor(), td).spread(1000)
    assert torch.equal(x[:, 0], torch.arange(1.0, 64, 2)) and (x[:, 1] == 0).all()
    assert torch.equal(s[:, 0], x[:, 0])
    *_, weights = regressor().training_pairs(td, AUX, "state", MASK)
    assert torch.equal(weights, mask.flatten().float())


@pytest.mark.parametrize(
    ("aux", "mask"), [(("walkers", "x"), ("walkers", "active_mask")), ("x", MASK), (AUX, MASK), (("a", "b", "x"), None)]
)
def test_who_counts_is_read_from_the_group_of_x(aux, mask):
    mask = mask or ("a", "b", "active_mask")
    model, td = regressor(aux_key=aux), data()
    td[aux], td[mask] = td[AUX].clone(), torch.ones(64, 2, 1, dtype=torch.bool)
    td[mask][::2] = False
    td[aux][::2] = torch.nan
    pairs = TensorDictPairs(model, td)
    assert pairs.spread(1000)[0][:, 0].tolist() == [row for row in range(1, 64, 2) for _ in range(2)]
    history = fit(model, td, steps=3, progress=False, validation=td)
    assert history["loss_regression"][0] > 0 and history["validation/loss_regression"][0] > 0
    td[mask][:] = False
    with pytest.raises(UserError, match=f"got .*{'active_mask'}.* with none in 128"):
        fit(model, td, steps=3, progress=False)


def test_without_a_mask_key_the_mask_of_the_models_own_group_is_read():
    model, td = regressor(aux_key=("walkers", "x")), data()
    td["walkers", "x"] = td[AUX].clone()
    td["walkers", "active_mask"] = torch.zeros(64, 2, 1, dtype=torch.bool)
    td[MASK] = torch.ones(64, 2, 1, dtype=torch.bool)  # of another group
    *_, mask = read_pairs(model, td)
    assert mask.shape == (64, 2) and not mask.any()
    *_, weights = model.training_pairs(td, model.aux_key, model.state_key)
    assert torch.equal(weights, torch.zeros(128))
    assert read_pairs(model, td, mask_key=MASK)[2].all() and read_pairs(model, td, masked=False)[2] is None


def test_the_mask_of_a_loss_follows_the_x_that_set_keys_names():
    model, td, x = regressor(), data(), ("walkers", "x")
    model.set_statistics(td[AUX], td["state"])
    td[MASK] = torch.ones(64, 2, 1, dtype=torch.bool)  # of another group
    td[x], td["walkers", "active_mask"] = td[AUX].clone(), torch.arange(64).reshape(64, 1, 1).expand(64, 2, 1) % 2 == 1
    expected = model.make_loss()(td[1::2])["loss_regression"]
    td[x][::2], td["state"][::2] = torch.nan, torch.nan
    loss = model.make_loss()
    loss.set_keys(aux_observation=x)
    torch.testing.assert_close(loss(td)["loss_regression"], expected)
    *_, weights = model.training_pairs(td, x, "state")
    assert weights.reshape(64, 2)[:, 0].tolist() == [0, 1] * 32
    loss.set_keys(aux_observation=x, active_mask=MASK)  # a mask that is named stays
    assert loss.tensor_keys.active_mask == MASK
    loss.set_keys(aux_observation=x)
    loss.set_keys(state="other")
    assert loss.tensor_keys.active_mask == ("walkers", "active_mask")
    loss.set_keys(aux_observation=None)
    assert loss.tensor_keys.active_mask == MASK


def test_few_living_agents_are_all_measured():
    td = data(4096)
    td[MASK] = torch.zeros(4096, 2, 1, dtype=torch.bool)
    td[MASK][[7, 4000], 1] = True
    x, _ = TensorDictPairs(regressor(), td).spread(100)
    assert x[:, 0].tolist() == [7.0, 4000.0]


def test_a_team_counts_as_long_as_anyone_lives_and_is_agent_zeros():
    td = data(own=True)
    td[MASK] = torch.zeros(64, 2, 1, dtype=torch.bool)
    td[MASK][5, 1] = True
    x, s = TensorDictPairs(regressor(infer_per="team"), td).spread(100)
    assert x.tolist() == [[5.0, 0.0, 0.0, 0.0]] and s.tolist() == [[5.0, 0.0, 0.0]]


@pytest.mark.parametrize("per", ["agent", "team"])
@pytest.mark.parametrize("own", [False, True])
def test_the_loss_and_the_fit_read_the_same_pairs(per, own):
    model, td = regressor(infer_per=per), data(own=own)
    td[MASK] = torch.rand(64, 2, 1) > 0.3
    x, s, mask = read_pairs(model, td)
    assert x.shape[:-1] == s.shape[:-1] == mask.shape == (64, 1 if per == "team" else 2)
    measured = TensorDictPairs(model, td).spread(1000)
    trained = model.training_pairs(td, AUX, "state", MASK)
    for a, b in zip(measured, trained):
        torch.testing.assert_close(a, b[trained[2].bool()])


def test_reading_copies_no_data(tmp_path):
    td = data().memmap(tmp_path)
    x, s, _ = read_pairs(regressor(), td)
    assert x.data_ptr() == td[AUX].data_ptr() and s.data_ptr() == td["state"].data_ptr()


def test_data_that_carry_a_graph_are_fitted_as_those_that_do_not():
    """A rollout that was not made under no_grad: its x holds the last action, and that the actor's graph."""
    acting = torch.ones(64, 2, 4, requires_grad=True)
    plain, carrying = data(), data()
    carrying[AUX], carrying["state"] = carrying[AUX] * acting, carrying["state"] * acting[:, 0, :3]
    losses = []
    for td in (plain, carrying):
        torch.manual_seed(0)
        model = regressor()
        losses.append(fit(model, td, steps=3, progress=False)["loss_regression"])
        losses.append(Fitter(model).step(td)["loss_regression"])
    assert acting.grad is None and losses[:2] == losses[2:]


@pytest.mark.parametrize("ask", [lambda td: fit(regressor(), td, steps=1), regressor().make_loss()])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": torch.randn(64, 3, 3)}, r"expects shape \[64, 3\] or \[64, 2, 3\] beside .*got \[64, 3, 3\]"),
        ({"state": torch.randn(64, 1, 3)}, "same steps"),
        ({MASK: torch.ones(64, 3, 1)}, r"active_mask'\) expects shape \[64, 2, 1\].*got \[64, 3, 1\]"),
        ({"state": None}, "expects 'state' in the data, which hold .*set the model's keys"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(ask, changes, message):
    td = data()
    for key, value in changes.items():
        td = td.exclude(key) if value is None else td.set(key, value)
    with pytest.raises(UserError, match=message):
        ask(td)


def test_data_without_a_living_agent_are_refused():
    td = data()
    td[MASK] = torch.zeros(64, 2, 1, dtype=torch.bool)
    with pytest.raises(UserError, match=r"expects a living agent.*got .* none in 128: .*wrong way round"):
        fit(GlobeDiff(4, 3, width=16), td, steps=2, progress=False)


@pytest.mark.parametrize("wrong", [[TensorDict({}, [3])], (torch.ones(3, 4), torch.ones(3, 2))])
def test_another_container_is_refused_with_what_to_pass(wrong):
    with pytest.raises(UserError, match=rf"TensorDict.*aux_observation.*got a {type(wrong).__name__}.*buffer\[:\]"):
        fit(MLPStateModel(4, 2), wrong, steps=1, progress=False)
