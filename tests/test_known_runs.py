"""The parts of a run, one at a time, against answers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_models import data as small_data
from small_models import small
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import keys as k
from globediff_torchrl.envs.vmas.state import read_state
from globediff_torchrl.evaluation.episodes import evaluate
from globediff_torchrl.state_models import Fitter
from globediff_torchrl.task import Task
from globediff_torchrl.training import behaviour, hooks, pretrain, rollouts
from globediff_torchrl.training.checkpoint import NewEpisodes
from globediff_torchrl.training.config import compose
from globediff_torchrl.training.hooks import Clock, Evaluation, StateModelUpdate
from globediff_torchrl.training.pretrain import Pretraining


# ------------------------------------------------------------------------------------------------------- state model
def test_the_last_tenth_of_the_offline_pairs_is_fitted_by_nothing_and_judges_the_fit(monkeypatch, tmp_path):
    seen, logged, kept = {}, {}, []
    monkeypatch.setattr(
        pretrain, "fit", lambda model, data, validation, **_: seen.update(fitted=data, measured=validation) or {}
    )
    monkeypatch.setattr(pretrain, "held_out_error", lambda model, data: seen.update(judged=data) or 0.25)
    pairs = TensorDict({"state": torch.arange(160)}, [160])
    Pretraining(
        SimpleNamespace(collected_frames=0, _log=lambda **values: logged.update(values)),
        SimpleNamespace(model=None),
        SimpleNamespace(get=lambda: pairs),
        SimpleNamespace(extend=kept.append),
        None,
        steps=1, batch_size=8, lr=1e-3, output=tmp_path, seed=0, progress=False,
    )()  # fmt: skip
    first, last = list(range(144)), list(range(144, 160))
    rows = {name: data["state"].tolist() for name, data in seen.items()}
    assert rows == {"fitted": first, "measured": last, "judged": last}
    assert kept[0]["state"].tolist() == first + last and logged == {"pretraining/state_error": 0.25}


def test_pretraining_and_online_update_take_their_own_entries_of_the_configuration(fast_trainer):
    pretraining = {"steps": 5, "batch_size": 33, "lr": 0.011}
    update = {"every_episodes": 6, "steps": 3, "batch_size": 17, "lr": 0.007, "max_steps": 13}
    overrides = [f"pretrain.{name}={value}" for name, value in pretraining.items()]
    overrides += [f"state_model_update.{name}={value}" for name, value in update.items()]
    trainer = fast_trainer("globediff", *overrides)
    (hook,) = (module for module in trainer._modules.values() if isinstance(module, StateModelUpdate))
    assert {name: getattr(trainer.pretraining, name) for name in pretraining} == pretraining
    assert {name: getattr(hook, name.removesuffix("_episodes")) for name in update} == update


def test_the_gradient_of_a_fit_is_clipped_before_the_step(monkeypatch):
    fitter, norms = Fitter(small(), grad_clip=1e-3), []
    step = fitter.optimizer.step

    def recorded():
        gradients = [p.grad for p in fitter.raw.parameters() if p.grad is not None]
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        return step()

    monkeypatch.setattr(fitter.optimizer, "step", recorded)
    assert fitter.step(small_data())["grad_norm"] > 0.1  # as it was before
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


# ------------------------------------------------------------------------------------------------------------- seeds
@pytest.mark.parametrize(("final", "rounds"), [(False, 3), (True, 4)])
def test_evaluations_play_all_their_episodes_in_rounds_and_under_a_seed_of_their_own(
    fast_trainer, monkeypatch, final, rounds
):
    entries = {"episodes": 5, "final_episodes": 7, "num_envs": 2, "seed": 777}
    trainer, calls, made = fast_trainer("mappo", *(f"evaluation.{n}={v}" for n, v in entries.items())), [], []
    create = rollouts.env_from_config
    monkeypatch.setattr(rollouts, "env_from_config", lambda *args, **rest: made.append(rest) or create(*args, **rest))
    monkeypatch.setattr(rollouts, "evaluate", lambda env, policy, **rest: calls.append((env, rest)) or {})
    rollouts.make_evaluator(trainer)(final)
    ((env, rest),) = calls
    assert made == [{"num_envs": 2, "seed": 777}] and env.batch_size == (2,)
    assert rest == {"seed": 777, "max_steps": env.task.horizon, "rounds": rounds}


def test_the_behaviour_run_plays_other_episodes_than_the_run_itself(monkeypatch, tmp_path):
    seeds, streams = [], []
    env = SimpleNamespace(task=SimpleNamespace(horizon=1), close=lambda: None)
    monkeypatch.setattr(behaviour, "env_from_config", lambda config: seeds.append(config.seed) or env)
    monkeypatch.setattr(behaviour, "random_pairs", lambda *_: streams.append(torch.initial_seed()))
    behaviour.behave(compose("vmas", ["seed=7", "pretrain.behaviour=random"]), tmp_path, None, None)
    assert seeds == streams == [1_000_007]


def test_each_resume_of_a_simulator_that_cannot_be_saved_begins_episodes_of_another_seed():
    seeds, resets, state = [], [], {"resumes": 0}
    for _ in range(2):
        env, collector = SimpleNamespace(set_seed=seeds.append), SimpleNamespace(reset=lambda: resets.append(1))
        episodes = NewEpisodes(env, collector, seed=7)
        episodes.load_state_dict(state)
        state = episodes.state_dict()
    assert seeds == [7 + 1_000_003, 7 + 2_000_006] and len(resets) == 2


# -------------------------------------------------------------------------------------------------------- collecting
def test_the_collector_goes_on_from_where_the_warm_up_has_left_the_simulator(fast_trainer):
    trainer = fast_trainer("mappo", "training.frames_per_batch=32")
    assert not trainer.collector.reset_at_each_iter
    rollouts.warm_up(trainer)
    simulator = trainer.env.base_env._env
    torch.testing.assert_close(trainer.collector._carrier[k.STATE], read_state(simulator, "hunt"))


def test_training_collects_samples_of_the_policy_and_not_its_mode(fast_trainer):
    trainer = fast_trainer("mappo")
    batch = next(iter(trainer.collector))
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        mode = trainer.team.policy(batch.clone())[k.ACTION]
    assert ((batch[k.ACTION] - mode).abs() > 1e-3).float().mean() > 0.9


# ------------------------------------------------------------------------------------------------------------- hooks
@pytest.fixture
def ticking(monkeypatch):
    """``ticking(reading)``: what the hooks' clock shows from now on."""
    reading = [0.0]
    monkeypatch.setattr(hooks, "time", SimpleNamespace(perf_counter=lambda: reading[0]))
    return lambda seconds: reading.__setitem__(0, seconds)


def test_shares_and_frames_per_second_are_of_all_the_time_of_training(ticking):
    clock = Clock(None)
    clock.load_state_dict({"collect": 1.0, "infer": 0.5, "update": 2.0, "state_model": 1.0, "frames": 40})
    found = clock.state_model_updated(None)
    assert (found["time/infer_share"], found["time/frames_per_second"]) == (0.125, 10.0)


def test_an_inference_counts_while_a_batch_is_collected_alone(ticking):
    model = nn.Identity()
    clock = Clock(model)
    model.register_forward_pre_hook(lambda *_: ticking(clock._infer_start + 3))  # each takes 3 s
    model(None)
    clock.start()
    model(None)
    clock.collected(torch.zeros(4))
    model(None)
    assert clock.seconds == {"collect": 3.0, "infer": 3.0, "update": 0.0, "state_model": 0.0} and clock.frames == 4


def test_a_resumed_run_keeps_to_the_frames_of_its_evaluations():
    trainer = SimpleNamespace(collected_frames=160, total_frames=10_000)
    hook = Evaluation(trainer, lambda final: {"return": 1.0}, every=160)
    assert hook(None) == {"eval/return": 1.0}
    resumed = Evaluation(trainer, hook.evaluate, every=160)
    resumed.load_state_dict(hook.state_dict())
    found = {}
    for trainer.collected_frames in (240, 320, 400):
        found[trainer.collected_frames] = resumed(None)
    assert found == {240: None, 320: {"eval/return": 1.0}, 400: None}


# -------------------------------------------------------------------------------------------------------- evaluation
def test_what_is_inferred_behind_the_end_of_the_first_episode_is_no_error():
    state, done = torch.tensor([[[0.0], [1.0], [2.0]]]), torch.tensor([[[False], [True], [False]]])
    wrong_behind = state + torch.tensor([0.0, 0.0, 50.0]).reshape(1, 3, 1)
    after = {"done": done, "agents": TensorDict({"episode_reward": torch.zeros(1, 3, 1, 1)}, (1, 3))}
    agents = TensorDict({"inferred_state": wrong_behind.unsqueeze(-2)}, (1, 3, 1))
    rollout = TensorDict({"next": TensorDict(after, (1, 3)), "state": state, "agents": agents}, (1, 3))
    env = SimpleNamespace(
        task=Task("recorded", 1, None, None, (), None, 0, None, ""),
        set_seed=lambda seed: None,
        rollout=lambda *_, **__: rollout,
    )
    assert evaluate(env, None, seed=0, max_steps=3, modes=("stochastic",))["stochastic/state_error_sample"] == 0
