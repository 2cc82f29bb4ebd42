"""Resume: a resumed run is the run that was never stopped; a bad number stops a run and spares its checkpoints."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from stopped_runs import checkpoints, same, stop_at

from globediff_torchrl import TrainingError, UserError, make_trainer
from globediff_torchrl import keys as k
from globediff_torchrl.envs.vmas import StateVmasEnv
from globediff_torchrl.state_models.fit import _Run
from globediff_torchrl.training.checkpoint import RandomState, Stopped
from globediff_torchrl.training.dataset import PairWriter
from globediff_torchrl.training.hooks import StateModelUpdate

EVERY = ["checkpoint.every_frames=80", "checkpoint.keep_last=2"]
UPDATES = ["state_model_update.every_episodes=12", "state_model_update.steps=2"]  # a remainder lies over the stop


@pytest.mark.parametrize("algorithm", ["globediff", "mappo_history"])
def test_a_resumed_run_equals_the_uninterrupted_one(fast_trainer, tmp_path, progress, algorithm):
    options = [*UPDATES, "evaluation.every_frames=80"]
    whole = fast_trainer(algorithm, *options, iterations=4, folder="whole")
    whole.train()
    stop_at(fast_trainer(algorithm, *options, iterations=4, folder="parts"), 160).train()
    assert [row["frames"] for row in progress(tmp_path / "parts")] == ["80.0", "160.0"]
    torch.manual_seed(12345)  # nothing of the resumed run may hang on the process it wakes up in
    resumed = fast_trainer(algorithm, *options, iterations=4, folder="parts", resume=tmp_path / "parts")
    assert resumed.collected_frames == 160
    resumed.train()
    same(whole, resumed)
    rows = progress(tmp_path / "whole"), progress(tmp_path / "parts")
    assert len(rows[0]) == 4 and rows[0] == rows[1]


@pytest.mark.parametrize("devices", [0, 1])
def test_random_streams_of_devices_that_are_not_here_any_more_are_left_out(monkeypatch, devices):
    """Written with two GPUs and on a Mac, resumed where ``devices`` GPUs are."""
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    torch.manual_seed(5)
    state = RandomState().state_dict()
    expected = torch.rand(3)
    state["process"] |= {"torch_cuda": [torch.tensor([0]), torch.tensor([1])], "torch_mps": torch.tensor([2])}
    RandomState().load_state_dict(state)
    assert torch.equal(torch.rand(3), expected)
    assert [int(stream) for stream in given] == list(range(devices))


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        ("mappo", "vmas/hunt"),
        ("globediff", "vmas/gates"),
        ("globediff", "vmas/balance_sensors"),  # ends its episodes itself, so that they lie over the batches' ends
        ("mappo", "vmas/football"),
    ],
)
def test_a_resume_in_the_middle_of_an_episode_goes_on_where_it_was(fast_trainer, tmp_path, progress, algorithm, env):
    options = [*UPDATES, "training.frames_per_batch=32"]  # 4 of the 10 steps of an episode
    whole = fast_trainer(algorithm, *options, iterations=2, folder="whole", env=env)
    whole.train()
    stop_at(fast_trainer(algorithm, *options, iterations=2, folder="parts", env=env), 96).train()
    resumed = fast_trainer(algorithm, *options, iterations=2, folder="parts", env=env, resume=tmp_path / "parts")
    assert resumed.collected_frames == 96
    resumed.train()
    same(whole, resumed)
    assert progress(tmp_path / "whole") == progress(tmp_path / "parts")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill(*args, **kwargs):
    raise Killed


@pytest.mark.parametrize("behaviour", ["random", "mappo"])
@pytest.mark.parametrize("where", ["behaviour run", "fit", "first iteration", "results"])
def test_a_run_killed_outside_its_iterations_is_resumed_to_the_same_end(
    fast_trainer, tmp_path, monkeypatch, progress, where, behaviour
):
    options = [f"pretrain.behaviour={behaviour}", *EVERY]
    whole = fast_trainer("globediff", *options, folder="whole")
    whole.train()
    with monkeypatch.context() as patch:
        if where == "behaviour run":
            patch.setattr(PairWriter, "finish", kill)
        elif where == "fit":
            patch.setattr("globediff_torchrl.training.pretrain.held_out_error", kill)
        elif where == "first iteration":
            patch.setattr(StateModelUpdate, "extend", kill)
        else:
            patch.setattr("globediff_torchrl.training.assembly.write_results", kill)
        with pytest.raises(Killed):
            fast_trainer("globediff", *options, folder="parts").train()
    fitted = []
    advance = _Run.advance
    monkeypatch.setattr(_Run, "advance", lambda run: fitted.append(1) or advance(run))
    resumed = fast_trainer("globediff", *options, folder="parts", resume=tmp_path / "parts")
    results = resumed.train()
    assert bool(fitted) == (where == "behaviour run")  # the fit is not done again
    same(whole, resumed)
    assert progress(tmp_path / "whole") == progress(tmp_path / "parts")
    assert results["frames"] == 160 and results["complete"]
    files = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_a_run_that_is_complete_is_not_run_again(fast_trainer, tmp_path, capsys):
    fast_trainer("mappo", iterations=1).train()
    again = fast_trainer("mappo", iterations=1, resume=tmp_path / "run")
    before = [p.clone() for p in again.team.policy.parameters()]
    again.train()
    assert again.collected_frames == 80 and "complete at 80 frames" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(before, again.team.policy.parameters()))


def test_the_bar_of_a_resumed_run_begins_where_the_run_was(fast_trainer, tmp_path):
    fast_trainer("mappo", iterations=1).train()
    resumed = fast_trainer("mappo", "progress=true", iterations=2, resume=tmp_path / "run")
    seen = []
    resumed.register_op("setup", lambda: seen.append((resumed._pbar.initial, resumed._pbar.n)))
    resumed.train()
    assert seen == [(80, 80)] and resumed._pbar.n == resumed._pbar.total == 160


def test_a_complete_run_goes_on_with_more_frames(fast_trainer, tmp_path, progress):
    fast_trainer("mappo", iterations=1).train()
    fast_trainer("mappo", iterations=3, resume=tmp_path / "run").train()
    assert [row["frames"] for row in progress(tmp_path / "run")] == ["80.0", "160.0", "240.0"]


@pytest.fixture
def without_checkpoints(fast_trainer, tmp_path):
    """The folder of a run that has ended and keeps its results alone."""
    fast_trainer("mappo", iterations=1).train()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def test_a_complete_run_without_checkpoints_leaves_its_video_and_stays_as_it_is(without_checkpoints, capsys):
    before = {path: path.read_bytes() for path in without_checkpoints.rglob("*") if path.is_file()}
    resumed = make_trainer(resume=without_checkpoints, overrides=["video=true"])
    weights = load_file(without_checkpoints / "policy.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in resumed.team.policy.state_dict().items())
    assert resumed.collected_frames == 80 and "has no checkpoint any more" in capsys.readouterr().out
    results = resumed.train()
    assert results == json.loads((without_checkpoints / "summary.json").read_text())
    after = {path: path.read_bytes() for path in without_checkpoints.rglob("*") if path.is_file()}
    assert after.pop(without_checkpoints / "episode.gif") and after == before


def test_a_complete_run_without_checkpoints_is_not_begun_anew_for_more_frames(without_checkpoints):
    before = sorted(without_checkpoints.rglob("*"))
    with pytest.raises(UserError, match=r"to 160 frames, but no whole checkpoint .* ended at 80; expected one in"):
        make_trainer(resume=without_checkpoints, total_frames=160)
    assert sorted(without_checkpoints.rglob("*")) == before


def test_a_run_without_checkpoints_that_has_not_ended_begins_anew(without_checkpoints):
    (without_checkpoints / "policy.safetensors").unlink()
    assert make_trainer(resume=without_checkpoints).train()["frames"] == 80


def test_a_signal_ends_the_run_with_a_checkpoint_and_gives_the_handler_back(fast_trainer, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer = fast_trainer("mappo", iterations=4)
    stop_at(trainer, 160, lambda: signal.raise_signal(signal.SIGTERM)).train()
    assert trainer.collected_frames == 160 and signal.getsignal(signal.SIGTERM) is before
    assert trainer.stopped_by == signal.SIGTERM
    assert [path.name[-4:] for path in checkpoints(tmp_path / "run")] == ["0160"]
    assert trainer.results["complete"] is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_run_at_once(fast_trainer, tmp_path, number):
    before = signal.getsignal(number)
    trainer = fast_trainer("mappo", *EVERY, iterations=4)
    stop_at(trainer, 160, lambda: [signal.raise_signal(number) for _ in range(2)])
    with pytest.raises(Stopped) as caught:
        trainer.train()
    assert caught.value.number == number and signal.getsignal(number) is before
    assert fast_trainer("mappo", *EVERY, iterations=4, resume=tmp_path / "run").collected_frames == 80


@pytest.mark.parametrize("where", ["behaviour run", "fit"])
def test_a_signal_in_the_pretraining_ends_the_run_at_once_and_it_can_be_resumed(
    fast_trainer, tmp_path, monkeypatch, where
):
    trainer = fast_trainer("globediff", "pretrain.behaviour=mappo", *EVERY)
    with monkeypatch.context() as patch:
        owner, name = (PairWriter, "__call__") if where == "behaviour run" else (_Run, "advance")
        patch.setattr(owner, name, lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            trainer.train()
    resumed = make_trainer(resume=tmp_path / "run")
    assert resumed.collected_frames == 0 and resumed.train()["complete"]


def test_a_run_that_dies_is_resumed_from_its_last_checkpoint(fast_trainer, tmp_path, progress):
    def die():
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        stop_at(fast_trainer("mappo", *EVERY, iterations=4), 240, die).train()
    resumed = fast_trainer("mappo", *EVERY, iterations=4, resume=tmp_path / "run")
    assert resumed.collected_frames == 160
    resumed.train()
    assert [row["frames"] for row in progress(tmp_path / "run")] == ["80.0", "160.0", "240.0", "320.0"]


class Probe:
    """What a hook of one's own may be: a network drawn when it is made, and a count."""

    def __init__(self):
        self.network, self.batches = torch.nn.Linear(2, 2), 0

    def __call__(self, batch):
        self.batches += 1

    def state_dict(self):
        return {"network": self.network.state_dict(), "batches": self.batches}

    def load_state_dict(self, state_dict):
        self.network.load_state_dict(state_dict["network"])
        self.batches = state_dict["batches"]

    def register(self, trainer):
        trainer.register_op("pre_steps_log", self)
        trainer.register_module("probe", self)
        return self


def test_a_module_that_is_registered_after_make_trainer_goes_on_where_it_was_and_so_does_all_else(
    fast_trainer, tmp_path
):
    whole = fast_trainer("mappo", iterations=2, folder="whole")
    first = Probe().register(whole)
    whole.train()
    parts = fast_trainer("mappo", iterations=2, folder="parts")
    Probe().register(parts)
    stop_at(parts, 80).train()
    resumed = fast_trainer("mappo", iterations=2, folder="parts", resume=tmp_path / "parts")
    probe = Probe().register(resumed)
    assert probe.batches == 1 and torch.equal(probe.network.weight, first.network.weight)
    resumed.train()
    assert probe.batches == 2
    same(whole, resumed)


def test_a_module_that_does_not_fit_the_checkpoint_or_is_not_in_it_is_named(fast_trainer, tmp_path, capsys):
    trainer = fast_trainer("mappo", iterations=1)
    Probe().register(trainer)
    trainer.train()
    resumed = fast_trainer("mappo", iterations=1, resume=tmp_path / "run")
    with pytest.raises(UserError, match=r"module probe does not take what .*checkpoint-.* Register that one"):
        resumed.register_module("probe", torch.nn.Linear(2, 2))
    resumed.register_module("other", Probe())
    assert "holds nothing of other" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["training.lr=0.5", "env.scenario=gates", "seed=5"])
def test_a_resume_with_another_configuration_is_refused_and_nothing_is_touched(fast_trainer, tmp_path, change):
    fast_trainer("globediff", iterations=1)
    saved = (tmp_path / "run" / "config.yaml").read_text()
    name, _, value = change.partition("=")
    with pytest.raises(UserError, match=rf"has {name} = .* but '?{value}'? was asked for"):
        fast_trainer("globediff", change, iterations=1, resume=tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_text() == saved


@pytest.mark.parametrize("change", ["pretrain.steps=9", "pretrain.frames=240", "pretrain.behaviour=mappo"])
def test_another_pretraining_is_refused_once_it_is_over(fast_trainer, tmp_path, change):
    fast_trainer("globediff", iterations=1).train()
    saved = (tmp_path / "run" / "config.yaml").read_text()
    name, _, value = change.partition("=")
    with pytest.raises(UserError, match=rf"has {name} = .* its pretraining is over, but '?{value}'? was asked for"):
        make_trainer(resume=tmp_path / "run", total_frames=160, overrides=[change])
    assert (tmp_path / "run" / "config.yaml").read_text() == saved


def test_a_run_killed_in_its_pretraining_may_go_on_with_another_one(fast_trainer, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_Run, "advance", kill)
        fast_trainer("globediff", iterations=1).train()
    resumed = make_trainer(resume=tmp_path / "run", overrides=["pretrain.steps=2"])
    assert resumed.train()["complete"]
    assert (tmp_path / "run" / "pretraining.csv").read_text().splitlines()[-1].startswith("2")


def test_a_refusal_to_resume_names_what_differs(fast_trainer, tmp_path):
    fast_trainer("globediff", iterations=1)
    with pytest.raises(UserError, match=r"preset = 'fast', but 'tuned' was asked for"):
        fast_trainer("globediff", "algorithm.state_model.preset=tuned", iterations=1, resume=tmp_path / "run")


def test_a_resume_takes_everything_it_is_not_told_from_the_run(fast_trainer, tmp_path):
    stop_at(fast_trainer("globediff", env="vmas/gates", seed=3, iterations=2), 80).train()
    resumed = make_trainer(resume=tmp_path / "run")
    assert resumed.collected_frames == 80 and resumed.total_frames == 160
    assert resumed.env.task.name == "vmas/gates" and resumed.config.seed == 3


def test_a_resume_of_nothing_says_so(fast_trainer, tmp_path):
    with pytest.raises(UserError, match="has no run in it"):
        fast_trainer("mappo", resume=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_the_number_of_checkpoints_kept_is_what_the_configuration_says(fast_trainer, tmp_path):
    fast_trainer("mappo", *EVERY, iterations=4).train()
    assert [path.name[-4:] for path in checkpoints(tmp_path / "run")] == ["0240", "0320"]


# ------------------------------------------------------------------------------------------------------------- numbers
def poison(monkeypatch, key, after: int, value: float):
    """From the so-manieth step of the simulator on, one number of ``key`` is not finite."""
    step, steps = StateVmasEnv._step, []

    def bad(self, tensordict):
        out = step(self, tensordict)
        steps.append(1)
        if len(steps) > after:
            out[key][(0,) * out[key].ndim] = value
        return out

    monkeypatch.setattr(StateVmasEnv, "_step", bad)


@pytest.mark.parametrize(
    ("algorithm", "key", "value"),
    [
        ("mappo", ("agents", "reward"), float("nan")),
        ("mappo", ("agents", "observation"), float("nan")),
        ("mappo", "state", float("inf")),
        ("globediff", ("agents", "observation"), float("nan")),
        ("globediff", ("agents", "observation"), float("inf")),
        ("globediff", "state", float("nan")),
    ],
)
def test_a_number_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    fast_trainer, tmp_path, monkeypatch, algorithm, key, value
):
    trainer = fast_trainer(algorithm, *EVERY, "pretrain.steps=0", iterations=4)
    weights = []
    trainer.register_op(
        "post_steps_log", lambda batch: weights.append([p.clone() for p in trainer.team.policy.parameters()])
    )
    warm_up = 20 if algorithm == "globediff" else 10  # a rollout each for the state model's and the inputs' statistics
    poison(monkeypatch, key, after=warm_up + 25, value=value)  # two batches, in the third
    with pytest.raises(TrainingError, match=r"NaN|finite"):
        trainer.train()
    assert trainer.collected_frames == 160
    assert all(torch.equal(a, b) for a, b in zip(weights[-1], trainer.team.policy.parameters()))
    monkeypatch.undo()
    resumed = fast_trainer(algorithm, *EVERY, "pretrain.steps=0", iterations=4, resume=tmp_path / "run")
    assert resumed.collected_frames == 160
    assert all(torch.isfinite(p).all() for p in resumed.team.policy.parameters())


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_a_loss_that_is_not_finite_stops_the_run_before_a_step_is_taken(fast_trainer, tmp_path, network):
    trainer = fast_trainer("mappo", *EVERY, iterations=4)
    stepper = trainer.optimization_stepper
    step = stepper.step

    def bad(owner, sub_batch):
        if owner.collected_frames == 160:
            name = k.ADVANTAGE if network == "actor" else k.VALUE_TARGET
            sub_batch[name][0] = torch.nan
        return step(owner, sub_batch)

    stepper.step = bad
    with pytest.raises(TrainingError, match=r"NaN or infinite at frame 160"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.loss_module.parameters())
    assert fast_trainer("mappo", *EVERY, iterations=4, resume=tmp_path / "run").collected_frames == 80
