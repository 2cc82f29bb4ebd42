"""The state model within a run: offline data, pretraining, the online update every N episodes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_batches import batch_of
from tensordict import TensorDict

from globediff_torchrl import keys as k
from globediff_torchrl.errors import TrainingError
from globediff_torchrl.state_models import MLPStateModel, fit
from globediff_torchrl.training.dataset import load_dataset, one_agent_each, pairs
from globediff_torchrl.training.hooks import StateModelUpdate


class Counter:
    """Stands for the fitter: counts the gradient steps."""

    model = MLPStateModel(aux_dim=3, state_dim=2)
    device = torch.device("cpu")

    def __init__(self):
        self.steps = 0

    def step(self, batch, lr):
        assert lr == 1e-3
        self.steps += 1
        return {"loss": torch.tensor(float(self.steps))}

    def update_final_scale(self, x, s):
        self.measured_on = x


class Sink:
    """Stands for the replay buffer."""

    def __init__(self):
        self.pairs = []

    def extend(self, batch):
        self.pairs.append(batch)

    def sample(self, *size):
        return self.pairs[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 9))
def test_an_update_of_so_many_steps_follows_every_n_episodes_and_the_rest_is_carried_over(batches, every):
    fitter, episodes = Counter(), 0
    hook = StateModelUpdate(fitter, Sink(), every=every, steps=3, batch_size=8, lr=1e-3)
    for dones in batches:
        hook.extend(batch_of(dones))
        metrics = hook.update(None)
        due = (episodes + sum(dones)) // every - episodes // every
        episodes += sum(dones)
        assert fitter.steps == 3 * (episodes // every) and hook.updates == episodes // every
        assert bool(metrics) == (due > 0)
        if due:  # the mean over the steps of this update, the last of which is as high as their number so far
            assert metrics["state_model/loss"] == pytest.approx(fitter.steps - (3 * due - 1) / 2)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 20))
def test_an_iteration_takes_no_more_steps_than_max_steps_and_what_is_beyond_is_not_made_up_for(ended, every, bound):
    free, bounded = (
        StateModelUpdate(Counter(), Sink(), every=every, steps=3, batch_size=8, lr=1e-3, max_steps=max_steps)
        for max_steps in (None, bound)
    )
    for episodes in ended:
        before = free.fitter.steps, bounded.fitter.steps
        for hook in (free, bounded):
            hook.extend(batch_of([True] * episodes + [False]))
            hook.update(None)
        taken, allowed = free.fitter.steps - before[0], bounded.fitter.steps - before[1]
        assert allowed == min(taken, bound) and bounded.waiting == free.waiting


def test_the_spread_of_the_last_step_is_measured_on_the_living_of_the_newest_batch():
    hook = StateModelUpdate(Counter(), Sink(), every=1, steps=1, batch_size=8, lr=1e-3)
    for shift in (0, 1000):
        batch = batch_of([False, True, True])
        batch["agents", "aux_observation"] += shift
        batch["agents", "active_mask"] = torch.tensor([[[1], [0]]] * 3, dtype=torch.bool).expand(1, 3, 2, 1)
        hook.extend(batch)
        hook.update(None)
    measured = hook.fitter.measured_on
    assert sorted(measured[:, 0].tolist()) == [1000, 1006, 1012]  # the second agent of each step is dead


def test_the_cadence_goes_on_after_a_resume():
    hooks = [StateModelUpdate(Counter(), Sink(), every=5, steps=1, batch_size=8, lr=1e-3) for _ in range(2)]
    for hook in hooks:
        hook.fitter.state_dict = dict
        hook.fitter.load_state_dict = lambda state: None
    hooks[0].extend(batch_of([True] * 8))
    hooks[0].update(None)
    hooks[1].load_state_dict(hooks[0].state_dict())
    hooks[1].extend(batch_of([True] * 2))
    hooks[1].update(None)
    assert hooks[1].fitter.steps == 1 and hooks[1].updates == 2


def test_what_a_crash_ended_is_neither_an_episode_nor_data():
    batch = batch_of([False, True, False, True, True])
    batch["valid"] = torch.tensor([1, 1, 0, 0, 1], dtype=torch.bool).reshape(1, 5, 1)
    hook = StateModelUpdate(Counter(), Sink(), every=5, steps=1, batch_size=8, lr=1e-3)
    hook.extend(batch)
    assert hook.waiting == 2
    assert torch.equal(hook.replay_buffer.pairs[0]["state"], batch["state"][0, [0, 1, 4]])


@pytest.mark.parametrize(("infer_per", "agents"), [("agent", 2), ("team", 1)])
def test_the_replay_buffer_holds_the_first_agents_x_alone_where_the_model_infers_once_for_the_team(infer_per, agents):
    fitter = Counter()
    fitter.model = SimpleNamespace(state_key="state", infer_per=infer_per)
    hook = StateModelUpdate(fitter, Sink(), every=1, steps=1, batch_size=8, lr=1e-3)
    batch = batch_of([False] * 3)
    hook.extend(batch)
    assert torch.equal(hook.replay_buffer.pairs[0][k.AUX_OBSERVATION], batch[k.AUX_OBSERVATION][0, :, :agents])


@pytest.mark.parametrize(("per_team", "agents"), [(False, 2), (True, 1)])
def test_pairs_take_each_agents_own_target_and_leave_the_state(per_team, agents):
    batch = batch_of([False] * 4)
    batch[k.TARGET_STATE] = torch.arange(24.0).reshape(1, 4, 2, 3)
    found = pairs(batch, per_team, k.TARGET_STATE)
    assert torch.equal(found[k.TARGET_STATE], batch[k.TARGET_STATE][0, :, :agents])
    assert set(found.keys()) == {"agents"}


@pytest.mark.parametrize(("per_team", "agents"), [(False, 2), (True, 1)])
def test_pairs_flatten_the_rollout_and_keep_one_agent_where_the_team_infers_once(per_team, agents):
    batch = batch_of([False] * 4)
    found = pairs(batch, per_team)
    assert found.batch_size == (4,)
    assert torch.equal(found[k.AUX_OBSERVATION], batch[k.AUX_OBSERVATION][0, :, :agents])
    assert torch.equal(found["state"], batch["state"][0])
    assert not any("next" in name for name in found.keys(True, True))


@pytest.mark.parametrize("own_target", [False, True])
def test_a_step_of_the_update_takes_one_agents_pair_of_each_moment_and_every_agents_alike(own_target):
    torch.manual_seed(0)
    batch = batch_of([False] * 400, agents=3)
    batch[k.ACTIVE_MASK] = torch.rand(1, 400, 3, 1) < 0.7
    target = k.TARGET_STATE if own_target else k.STATE
    if own_target:
        batch[k.TARGET_STATE] = 10 * batch[k.AUX_OBSERVATION]
    data = pairs(batch, per_team=False, target=target)
    chosen = one_agent_each(data)
    x = chosen[k.AUX_OBSERVATION]
    agent = (x[:, 0, 0] / 3 % 3).long()  # batch_of counts up: agent i of moment t begins with 9 t + 3 i
    rows = torch.arange(400)
    assert x.shape == (400, 1, 3) and torch.equal(x[:, 0], data[k.AUX_OBSERVATION][rows, agent])
    assert torch.equal(chosen[k.ACTIVE_MASK][:, 0], data[k.ACTIVE_MASK][rows, agent])
    assert (agent.bincount() > 100).all()  # of 133 each on average
    if own_target:
        assert torch.equal(chosen[k.TARGET_STATE], 10 * x)
    else:
        assert torch.equal(chosen["state"], data["state"])


def test_where_one_inference_serves_the_team_the_pair_of_a_moment_stays_as_it_is():
    data = pairs(batch_of([False] * 4), per_team=True)
    assert one_agent_each(data) is data


def test_a_run_updates_after_as_many_episodes_as_the_configuration_says(fast_trainer):
    trainer = fast_trainer("globediff", iterations=3)  # 24 episodes, an update every 5, one step each
    trainer.train()
    fitter = trainer._modules["state_model"].fitter
    assert fitter.steps == 4 + 4  # pretraining, then floor(24 / 5)
    assert trainer._modules["state_model"].waiting == 4


def test_the_replay_buffer_begins_with_the_offline_data_and_goes_on_with_the_batches(fast_trainer, tmp_path):
    trainer = fast_trainer("globediff", iterations=2)
    batches = []
    trainer.register_op("pre_steps_log", lambda batch: batches.append(batch["state"].reshape(80, -1)))
    trainer.train()
    stored, data = trainer._modules["state_model_buffer"].buffer[:], load_dataset(tmp_path / "run" / "dataset")
    assert len(data) == 160 and len(stored) == 160 + 160
    for key in ("state", k.AUX_OBSERVATION):
        assert torch.equal(stored[key][:160], data[key])
    assert torch.equal(stored["state"][160:], torch.cat(batches))


@pytest.mark.parametrize("behaviour", ["random", "mappo"])
def test_the_offline_data_are_pairs_of_the_task_by_the_behaviour_asked_for(fast_trainer, tmp_path, behaviour):
    trainer = fast_trainer("globediff", f"pretrain.behaviour={behaviour}", "pretrain.frames=100", iterations=1)
    trainer.train()
    data = load_dataset(tmp_path / "run" / "dataset", {"env": "vmas/hunt", "behaviour": behaviour})
    assert len(data) == 100 and len(data["state"].unique(dim=0)) == 100
    assert trainer.collected_frames == 80  # the behaviour policy's own run does not count


def test_pretraining_changes_the_state_model_and_no_steps_leave_it(fast_trainer):
    for steps, changes in ((4, True), (0, False)):
        options = [f"pretrain.steps={steps}", "state_model_update.steps=0"]
        trainer = fast_trainer("globediff", *options, iterations=1, folder=f"run{steps}")
        before = [p.clone() for p in trainer.team.state_model.parameters()]
        trainer.train()
        same = all(torch.equal(a, b) for a, b in zip(before, trainer.team.state_model.parameters()))
        assert same != changes


@pytest.mark.parametrize("algorithm", ["globediff", "regressor"])
def test_without_pretraining_the_model_is_standardised_by_a_first_rollout(fast_trainer, algorithm):
    trainer = fast_trainer(algorithm, "pretrain.steps=0", iterations=1)
    seen = []
    trainer.register_op("batch_process", lambda batch: seen.append(batch["state"].flatten(0, -2)))
    trainer.train()
    model, varies = trainer.team.state_model, seen[0].std(0) > 1e-3
    assert (model.state_mean[varies] != 0).all() and (model.state_scale[varies] != 1).all() and model.aux_mean.any()
    spread = model.normalise_state(seen[0])[:, varies].std(0)  # of a few episodes, in units of a few others
    assert ((spread > 0.25) & (spread < 4)).all()
    raw = trainer._modules["state_model"].fitter.raw
    assert torch.equal(raw.state_mean, model.state_mean)  # the copy that is trained reads the same units


def test_a_batch_with_nan_in_anything_that_is_trained_on_is_refused_by_its_name(fast_trainer):
    trainer = fast_trainer("globediff", "pretrain.steps=0", iterations=1)
    batch = trainer.env.rollout(2, trainer.team.policy, break_when_any_done=False)
    batch.set(k.HYPOTHESES, batch[k.INFERRED_STATE].unsqueeze(-2).clone())
    names = [k.OBSERVATION, k.AUX_OBSERVATION, ("next", *k.REWARD), k.STATE, k.INFERRED_STATE]
    for name in [*names, k.INFERRED_BLEND, k.INFERRED_MEAN, k.HYPOTHESES]:  # the default actor reads the blend
        poisoned = batch.clone()
        poisoned[name].view(-1)[0] = torch.nan
        with pytest.raises(TrainingError, match=re.escape(f"NaN or infinite numbers in {name} (")):
            trainer._process_batch_hook(poisoned)


def test_the_policy_update_leaves_the_state_model_alone(fast_trainer):
    trainer = fast_trainer("globediff", "state_model_update.steps=0", iterations=2)
    seen = []
    trainer.register_op(
        "pre_steps_log", lambda batch: seen.append([p.clone() for p in trainer.team.state_model.parameters()])
    )
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], trainer.team.state_model.parameters()))


def test_the_collector_acts_on_the_updated_state_model(fast_trainer):
    trainer = fast_trainer("globediff", iterations=1)
    trainer.train()
    theirs = dict(trainer.collector._wrapped_policy.named_parameters())
    for name, value in trainer.team.policy.named_parameters():
        assert any(torch.equal(value, other) for key, other in theirs.items() if key.endswith(name)), name


def test_one_pair_for_the_team_counts_while_any_agent_lives():
    batch = batch_of([False, False, True])
    batch.set(k.ACTIVE_MASK, torch.tensor([[[1, 1], [0, 1], [0, 0]]], dtype=torch.bool).unsqueeze(-1))
    kept = pairs(batch, per_team=True)
    assert kept.get(k.ACTIVE_MASK).flatten().tolist() == [True, True, False]
    assert kept.get(k.AUX_OBSERVATION).shape == (3, 1, 3)


def test_the_statistics_of_a_fit_are_those_of_the_living():
    x = torch.tensor([[[1.0], [500.0]], [[3.0], [500.0]]])
    alive = torch.tensor([[[True], [False]], [[True], [False]]])
    data = TensorDict({"agents": TensorDict({"aux_observation": x, "active_mask": alive}, (2, 2))}, (2,))
    data["state"] = torch.tensor([[0.0], [2.0]])
    model = MLPStateModel(aux_dim=1, state_dim=1)
    fit(model, data, steps=1, batch_size=2, progress=False)
    assert model.aux_mean.item() == pytest.approx(2.0)


def test_a_first_batch_in_which_every_episode_crashed_is_passed_over(fast_trainer):
    """Without pretraining the replay buffer is empty still."""
    trainer, batches = fast_trainer("globediff", "pretrain.steps=0", iterations=2), []

    def crash(batch):
        batches.append(batch)
        if len(batches) == 1:
            batch[k.ACTIVE_MASK] = torch.zeros_like(batch[k.ACTIVE_MASK])
            batch[k.VALID] = torch.zeros(*batch.shape, 1, dtype=torch.bool)
        return batch

    trainer._batch_process_ops.insert(0, (crash, {}))
    trainer.train()
    assert len(batches) == 2 and trainer.results["complete"]
