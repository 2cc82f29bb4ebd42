"""A checkpoint of fit serves the fit that wrote it and no other, on whatever device."""

import pytest
import torch
from small_models import AUX, data, small, weights_of
from tensordict import TensorDict

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import Fitter, MLPStateModel, VAEStateModel, fit
from globediff_torchrl.state_models.fit import _Run

CALL = {"steps": 6, "batch_size": 8, "progress": False}
LONG = {"steps": 60, "batch_size": 16, "progress": False}


def one_number_off():
    td = data()
    td["state"][3, 1] += 1e-3
    return td


@pytest.mark.parametrize(
    ("model", "rows", "call", "had", "has"),
    [
        (small, data, {"steps": 7}, "steps=6", "steps=7"),
        (small, data, {"lr": 1e-4}, "lr=0.003", "lr=0.0001"),
        (small, data, {"seed": 1}, "seed=0", "seed=1"),
        (small, data, {"weight_decay": 0.1}, "weight_decay=0.0001", "weight_decay=0.1"),
        (small, data, {"ema": 0.9}, "ema=0.999", "ema=0.9"),
        (small, lambda: data(65), {}, "rows=64, data=", "rows=65, data="),
        (small, lambda: data(seed=1), {}, "data='sha256 ", "data='sha256 "),
        (small, one_number_off, {}, "data='sha256 ", "data='sha256 "),
        (small, data, {"validation": data(8)}, "validation=None", "validation='sha256 "),
        (lambda: small(prediction="eps", clip=3.0), data, {}, "model.prediction='v'", "model.prediction='eps'"),
        (lambda: small(beta_kl=0.5), data, {}, "model.beta_kl=0.1", "model.beta_kl=0.5"),
        (lambda: small(dims="equal"), data, {}, "model.dims='open'", "model.dims='equal'"),
        (lambda: MLPStateModel(4, 3, width=16), data, {}, "model='GlobeDiff'", "model='MLPStateModel'"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused_and_what_differs_is_named(tmp_path, model, rows, call, had, has):
    file = tmp_path / "fit.pt"
    fit(small(), data(), **CALL, checkpoint=file)
    other = model()
    before = weights_of(other)
    with pytest.raises(UserError, match=r"was written with .*this call has .*change one, or delete") as caught:
        fit(other, rows(), **{**CALL, **call}, checkpoint=file)
    first, second = str(caught.value).split("this call has")
    assert had in first and has in second
    assert not {"preset", "betas", "grad_clip"} & set(first.replace("=", " ").split())  # what agrees is not listed
    assert torch.equal(weights_of(other), before)


@pytest.mark.parametrize(
    "execution", [{"num_samples": 3}, {"sampler": "ddim"}, {"noise": "fixed"}, {"inferred_key": "guess"}]
)
def test_what_only_execution_reads_may_differ(tmp_path, execution):
    whole, resumed = small(), small(**execution)
    fit(whole, data(), **CALL)
    fit(small(), data(), **CALL, checkpoint=tmp_path / "fit.pt", stop_at=3)
    fit(resumed, data(), **CALL, checkpoint=tmp_path / "fit.pt")
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_no_argument_that_a_loss_reads_is_called_one_of_execution_only():
    for kind, reads in ((type(small()), {"clip", "beta_kl", "levels", "dims"}), (VAEStateModel, {"beta_kl"})):
        assert set(kind.overridable) - set(kind.execution_only) == reads
    assert MLPStateModel.execution_only == MLPStateModel.overridable


def test_a_fitters_own_settings_count_and_its_data_may_come_from_the_disk(tmp_path):
    file = tmp_path / "fit.pt"
    ends = []
    for stop in (3, None):
        fitter = Fitter(small(), weight_decay=0.1)
        fit(fitter.model, data(), **CALL, fitter=fitter, checkpoint=file, stop_at=stop)
        data().memmap(tmp_path / "data")
        again = Fitter(small(), weight_decay=0.1)
        fit(again.model, TensorDict.load_memmap(tmp_path / "data"), **CALL, fitter=again, checkpoint=file, stop_at=stop)
        ends.append(weights_of(again.model))
        assert torch.equal(ends[-1], weights_of(fitter.model))
    assert not torch.equal(*ends)
    with pytest.raises(UserError, match=r"weight_decay=0\.1, this call has weight_decay=0\.0001"):
        fit(small(), data(), **CALL, checkpoint=file)


class DrawnPairs:
    """Pairs of one's own, whose spread draws from the global generator."""

    def __init__(self, td):
        self.x, self.s = td[AUX][:, 0], td["state"]

    def __len__(self):
        return len(self.x)

    def draw(self, size, generator):
        rows = torch.randint(len(self), (size,), generator=generator)
        return TensorDict({AUX: self.x[rows, None], "state": self.s[rows]}, [size])

    def spread(self, size):
        rows = torch.randint(len(self), (min(size, 32),))
        return self.x[rows], self.s[rows]


def test_looking_at_the_data_leaves_the_fit_as_it_is_without_a_checkpoint(tmp_path):
    whole, saved = small(), small()
    fit(whole, DrawnPairs(data()), **CALL)
    fit(saved, DrawnPairs(data()), **CALL, checkpoint=tmp_path / "fit.pt")
    assert torch.equal(weights_of(whole), weights_of(saved))


def test_a_checkpoint_that_a_gpu_wrote_goes_on_where_there_is_none(tmp_path, monkeypatch):
    whole, resumed, file = small(), small(), tmp_path / "fit.pt"
    fit(whole, data(), **LONG)
    with monkeypatch.context() as there:
        there.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        fit(small(), data(), **LONG, checkpoint=file, stop_at=7)
    fit(resumed, data(), **LONG, checkpoint=file)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_a_checkpoint_that_the_cpu_wrote_goes_on_on_a_gpu(tmp_path, monkeypatch):
    whole, resumed, file = small(), small(), tmp_path / "fit.pt"
    fit(whole, data(), **LONG)
    fit(small(), data(), **LONG, checkpoint=file, stop_at=50)
    # a Fitter that says so: its noise is the CPU's still, and of a GPU's own nothing is there to be brought back
    monkeypatch.setattr(Fitter, "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    fit(resumed, data(), **LONG, checkpoint=file)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_the_losses_not_yet_written_down_follow_a_fit_to_its_device(tmp_path, monkeypatch):
    file, found = tmp_path / "fit.pt", []
    fit(small(), data(), **LONG, checkpoint=file, stop_at=7)

    def look(run):
        found.extend(value.device.type for row in run.recent for value in row.values())
        run.step += 1

    monkeypatch.setattr(Fitter, "device", property(lambda _: torch.device("meta")))
    monkeypatch.setattr(_Run, "advance", look)
    fit(small(), data(), **LONG, checkpoint=file, stop_at=8)
    assert len(found) >= 7 and set(found) == {"meta"}


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_none(tmp_path, monkeypatch):
    file = tmp_path / "fit.pt"
    fit(small(), data(), **CALL, checkpoint=file)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(PermissionError):
        fit(small(), data(), **CALL, checkpoint=file)
