"""Recurrent MAPPO: chunks with their hidden states, values in order, resume; and a task that needs a memory."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from globediff_torchrl import UserError, load_policy, make_actor, make_critic, make_env, wrap_env
from globediff_torchrl import keys as k
from globediff_torchrl.keys import ACTOR_HIDDEN
from globediff_torchrl.policies import add_memory
from globediff_torchrl.policies.recurrent import memories
from globediff_torchrl.training.config import compose
from globediff_torchrl.training.mappo import Advantages, Minibatches, make_loss, make_optimizer
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages
from globediff_torchrl.training.validation import validate

RECURRENT = ["training=mappo_recurrent", "training.minibatches=1", "training.epochs=2"]
SETTINGS = {
    "gamma": 0.9,
    "lmbda": 0.8,
    "clip_epsilon": 0.2,
    "clip_value": True,
    "entropy_coeff": 0.01,
    "critic_coeff": 1.0,
}
SMALL = {"hidden_sizes": (16,), "recurrent": "gru"}


def recurrent_loss(env, critic_inputs=("state",), **actor):
    """The loss of two small recurrent networks, the actor's memory carried by ``env``."""
    torch.manual_seed(0)
    actor = make_actor(env, reads=None, gain=1.0, **{**SMALL, **actor})
    add_memory(env, actor)
    return make_loss(actor, make_critic(env, inputs=critic_inputs, **SMALL), None, **SETTINGS)


def drawn(env, loss, steps, start=None):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        options = {} if start is None else {"tensordict": start, "auto_reset": False}
        return env.rollout(steps, loss.actor_network, break_when_any_done=False, **options)


def out_of_step():
    """Four environments with a limit of 5 steps, each at another step of its episode."""
    env = make_env("vmas/hunt", num_envs=4, seed=0, max_steps=5)
    loss = recurrent_loss(env)
    start = env.reset()
    start["step_count"] = torch.tensor([[0], [1], [3], [4]])
    return env, loss, start


# --------------------------------------------------------------------------------------------------------------- ratio
def first_chunks(trainer):
    """Trains, and records what the first optimisation step of each batch was to work on, and its probability ratio."""
    stepper, seen = trainer.optimization_stepper, []
    step, per_batch = stepper.step, trainer.num_epochs * trainer.optim_steps_per_batch

    def recording(owner, sub_batch):
        if stepper.steps % per_batch == 0:
            with torch.no_grad(), set_recurrent_mode(True):
                new = trainer.team.actor.get_dist(sub_batch.clone()).log_prob(sub_batch[k.ACTION])
            ratio = (new - sub_batch[k.ACTION_LOG_PROB]).exp()
            seen.append((sub_batch.clone(), ratio[sub_batch[k.ACTIVE_MASK].squeeze(-1)]))
        return step(owner, sub_batch)

    stepper.step = recording
    trainer.train()
    return seen


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("mappo", ["training.chunk_length=7"]),
        ("mappo", ["training.chunk_length=3", "env.continuous_actions=false"]),
        ("mappo", ["training.chunk_length=null", "training.critic.recurrent=none"]),
        ("globediff", ["training.chunk_length=4"]),
        ("globediff", ["training.chunk_length=4", "training.update_input=true"]),
    ],
)
def test_the_ratio_is_one_before_the_first_step_with_resets_within_the_chunks(fast_trainer, algorithm, options):
    """Batches of 7 steps of episodes of 10: a reset lies at another step of each batch."""
    options = [*RECURRENT, "training.frames_per_batch=56", "training.lr=3e-2", *options]
    seen = first_chunks(fast_trainer(algorithm, *options, iterations=3))
    assert len(seen) == 5
    within = 0
    for chunks, ratio in seen:
        assert len(ratio) == 56 * 2
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
        within += int((chunks["step_count"][:, 1:] == 0).sum())
    assert within > 0


def test_the_ratio_hangs_on_the_stored_memory_and_on_the_resets():
    env, loss, start = out_of_step()
    batch = drawn(env, loss, 8, start)
    chunks = ChunkMinibatches(loss, (4, 8), 1, 4)
    batch = RecurrentAdvantages(loss)(batch)
    chunks.extend(batch)
    data = chunks.sample(None)

    def error(data):
        with torch.no_grad(), set_recurrent_mode(True):
            new = loss.actor_network.get_dist(data).log_prob(data[k.ACTION])
        return (new - data[k.ACTION_LOG_PROB]).abs().max()

    assert error(data.clone()) < 1e-5
    assert error(data.clone().set(ACTOR_HIDDEN, torch.zeros_like(data[ACTOR_HIDDEN]))) > 1e-3
    assert error(data.clone().set("step_count", torch.ones_like(data["step_count"]))) > 1e-3
    with torch.no_grad():
        out = loss(data)  # TorchRL's losses look at time as a sequence by themselves
    assert out["clip_fraction"] == 0 and (out["max_ratio"] - 1).abs() < 1e-5


# -------------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("inputs", [("state",), (k.OBSERVATION,)])
def test_values_advantages_and_memory_are_those_of_the_critic_run_step_by_step(inputs):
    env, loss, start = out_of_step()
    loss = recurrent_loss(env, critic_inputs=inputs)
    rollout = drawn(env, loss, 12, start)
    critic, hook, found = loss.critic_network, RecurrentAdvantages(loss), []
    for batch in (rollout[:, :7], rollout[:, 7:]):
        found.append(hook(batch.clone()))
    key = critic.hidden_key
    hidden = torch.zeros(4, *(() if key == "critic_hidden" else (2,)), 16)
    value, following, before = [], [], []
    for step in rollout.unbind(1):
        fresh = (step["step_count"] == 0).reshape(4, *[1] * (hidden.ndim - 1))
        before.append(torch.where(fresh, 0.0, hidden))
        now = critic(step.exclude("next").set(key, before[-1]))
        hidden = now["next"][key]
        value.append(now[k.STATE_VALUE])
        following.append(critic(step["next"].clone().set(key, hidden))[k.STATE_VALUE])
    value, following = torch.stack(value, 1).detach(), torch.stack(following, 1).detach()
    joined = torch.cat([batch[k.STATE_VALUE] for batch in found], 1)
    torch.testing.assert_close(joined, value, atol=1e-5, rtol=1e-5)
    joined = torch.cat([batch[key] for batch in found], 1)
    torch.testing.assert_close(joined, torch.stack(before, 1).detach(), atol=1e-5, rtol=1e-5)
    for batch, steps in zip(found, (slice(0, 7), slice(7, 12))):
        expected = by_hand(rollout[:, steps], value[:, steps], following[:, steps])
        torch.testing.assert_close(batch[k.VALUE_TARGET] - batch[k.STATE_VALUE], expected, atol=1e-5, rtol=1e-5)


def by_hand(batch, value, following):
    """Generalised advantage estimates, backwards through time."""
    advantage, total = [], torch.zeros_like(value[:, 0])
    for t in reversed(range(batch.shape[1])):
        after = batch["next"][:, t]
        done, terminated = (after[name].unsqueeze(-1).float() for name in ("done", "terminated"))
        delta = after[k.REWARD] + SETTINGS["gamma"] * following[:, t] * (1 - terminated) - value[:, t]
        total = delta + SETTINGS["gamma"] * SETTINGS["lmbda"] * (1 - done) * total
        advantage.append(total)
    return torch.stack(advantage[::-1], 1)


# -------------------------------------------------------------------------------------------------------------- chunks
@pytest.mark.parametrize(
    ("steps", "length", "shape"), [(8, 4, (8, 4)), (7, 3, (12, 3)), (9, 4, (12, 3)), (6, None, (4, 6))]
)
def test_an_epoch_sees_each_step_once_in_its_chunk_and_fills_up_with_nobody(steps, length, shape):
    env, loss, start = out_of_step()
    batch = RecurrentAdvantages(loss)(drawn(env, loss, steps, start))
    hook = ChunkMinibatches(loss, (4, steps), 2, length)
    hook.extend(batch)
    for _ in range(2):  # epochs
        data = torch.cat([hook.sample(None) for _ in range(2)])
        assert data.shape == shape
        active = data[k.ACTIVE_MASK]
        assert (active.all(2) == active.any(2)).all() and active.sum() == 4 * steps * 2
        seen = data[k.OBSERVATION][active[..., 0, 0]].flatten(1)
        expected = batch[k.OBSERVATION].reshape(4 * steps, -1)
        assert torch.equal(seen[seen[:, 0].argsort()], expected[expected[:, 0].argsort()])
        for key in (ACTOR_HIDDEN, "critic_hidden"):  # a chunk starts where the rollout was at its first step
            rows = {tuple(row.tolist()): i for i, row in enumerate(expected)}
            where = torch.tensor([rows[tuple(row.tolist())] for row in data[k.OBSERVATION][:, 0].flatten(1)])
            assert torch.equal(data[key][:, 0], batch[key].flatten(0, 1)[where])
            assert not data[key].requires_grad


def test_the_steps_of_a_chunk_follow_one_another():
    env, loss, start = out_of_step()
    batch = RecurrentAdvantages(loss)(drawn(env, loss, 8, start))
    hook = ChunkMinibatches(loss, (4, 8), 1, 4)
    hook.extend(batch)
    count = hook.sample(None)["step_count"].squeeze(-1)
    assert ((count[:, 1:] == count[:, :-1] + 1) | (count[:, 1:] == 0)).all()


def test_steps_that_fill_up_a_chunk_change_no_loss():
    env, loss, start = out_of_step()
    batch = RecurrentAdvantages(loss)(drawn(env, loss, 7, start))
    hook = ChunkMinibatches(loss, (4, 7), 1, 3)
    hook.extend(batch)
    data = hook.sample(None)
    filled = ~data[k.ACTIVE_MASK]
    assert filled.sum() == 4 * 2 * 2
    changed = data.clone()
    for key in (k.ADVANTAGE, k.VALUE_TARGET):
        changed[key] = torch.where(filled, 50.0, data[key])
    with torch.no_grad():
        one, two = loss(data), loss(changed)
    torch.testing.assert_close(one["loss_objective"], two["loss_objective"])
    torch.testing.assert_close(one["loss_critic"], two["loss_critic"])


def test_chunks_that_do_not_divide_are_refused_with_a_divisor(fast_trainer):
    options = [*RECURRENT, "training.chunk_length=5", "training.minibatches=3"]
    with pytest.raises(UserError, match=r"16 chunks .* training.minibatches=3 .* e.g. 2"):
        fast_trainer("mappo", *options, iterations=1)


# ----------------------------------------------------------------------------------------------------------- whole runs
def same(one, two):
    """Bit by bit."""
    for module in ("policy", "critic"):
        pairs = zip(getattr(one.team, module).state_dict().items(), getattr(two.team, module).state_dict().values())
        assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []


def stopped(trainer, frames):
    def stop(batch):
        if trainer.collected_frames == frames:
            trainer.request_stop()

    trainer.register_op("post_steps_log", stop)
    trainer.train()
    assert trainer.collected_frames == frames


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("mappo", ["training.frames_per_batch=32"]),  # 4 of the 10 steps of an episode
        ("globediff", ["training.frames_per_batch=32"]),
        ("mappo_history", []),
    ],
)
def test_a_resumed_recurrent_run_equals_the_uninterrupted_one(fast_trainer, tmp_path, progress, algorithm, options):
    def make(folder, **kwargs):
        return fast_trainer(algorithm, *RECURRENT, "training.chunk_length=3", *options, folder=folder, **kwargs)

    whole = make("whole")
    whole.train()
    stopped(make("parts"), 96 if options else 80)
    torch.manual_seed(12345)
    resumed = make("parts", resume=tmp_path / "parts")
    resumed.train()
    same(whole, resumed)
    assert progress(tmp_path / "whole") == progress(tmp_path / "parts")
    env, policy = load_policy(tmp_path / "parts", num_envs=3, seed=7)
    assert env.rollout(12, policy, break_when_any_done=False)[ACTOR_HIDDEN].shape == (3, 12, 2, 16)


def test_a_recurrent_run_on_smax_is_trained_and_resumed(fast_trainer, tmp_path):
    """Battles end when they end: resets lie anywhere within the chunks, and agents die."""
    pytest.importorskip("jax", reason="jax is missing: pip install -e '.[smax]'")
    if importlib.util.find_spec("jaxmarl") is None:
        pytest.skip("jaxmarl is missing: pip install -e '.[smax]'")
    from globediff_torchrl.envs.smax_jax import load_battles

    load_battles()  # see test_envs_smax.py
    sizes = ["env.max_steps=default", "evaluation.episodes=8", "evaluation.final_episodes=8"]
    options = [*sizes, *RECURRENT, "training.frames_per_batch=320", "training.chunk_length=10"]

    def make(folder, **kwargs):
        return fast_trainer("mappo", *options, iterations=12, folder=folder, env="smax/3m", **kwargs)

    whole = make("whole")
    seen = first_chunks(whole)
    assert len(seen) == 3
    for chunks, ratio in seen:
        assert chunks.shape == (32, 10)
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    assert any((chunks["step_count"][:, 1:] == 0).any() for chunks, _ in seen)
    assert any((~chunks[k.ACTIVE_MASK]).any() for chunks, _ in seen)
    stopped(make("parts"), 640)
    torch.manual_seed(12345)
    resumed = make("parts", resume=tmp_path / "parts")
    resumed.train()
    for (name, one), two in zip(whole.team.policy.state_dict().items(), resumed.team.policy.state_dict().values()):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0, msg=name)
    assert 0 <= resumed.results["stochastic/success"] <= 1


def test_the_reference_values_of_recurrent_mappo():
    training = compose("vmas", ["training=mappo_recurrent"]).training
    for network in (training.actor, training.critic):
        assert OmegaConf.to_container(network) == {
            "hidden_sizes": [64, 64],
            "activation": "relu",
            "layer_norm": True,
            "input_norm": "layer",
            "recurrent": "gru",
        }
    assert training.chunk_length == 10
    assert compose("vmas").training.actor.recurrent == "none"


def test_a_run_from_before_there_was_a_memory_is_still_valid():
    config = compose("vmas")
    OmegaConf.set_struct(config, False)
    for section, name in ((config.training, "chunk_length"), (config.training.actor, "recurrent")):
        del section[name]
    validate(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.chunk_length=0", r"training.chunk_length must be a whole number above 0, or null .* got 0.* is 10"),
        ("training.actor.recurrent=lstm", r"training.actor.recurrent.*'lstm'.*Known: none, gru"),
    ],
)
def test_what_does_not_fit_is_named(fast_trainer, override, message):
    with pytest.raises(UserError, match=message):
        fast_trainer("mappo", *RECURRENT, override)


# -------------------------------------------------------------------------------------------------------- a memory task
class Echo(EnvBase):
    """Two agents; each is shown a cue of its own in the first step, and must answer with it six steps later."""

    wait = 6

    def __init__(self, num_envs: int):
        super().__init__(batch_size=[num_envs])
        b = num_envs
        team = Composite(observation=Unbounded((b, 2, 2)), shape=(b, 2))
        self.observation_spec = Composite(agents=team, state=Unbounded((b, 3)), shape=(b,))
        self.action_spec = Composite(agents=Composite(action=Categorical(2, (b, 2)), shape=(b, 2)), shape=(b,))
        self.reward_spec = Composite(agents=Composite(reward=Unbounded((b, 2, 1)), shape=(b, 2)), shape=(b,))
        self.generator = torch.Generator().manual_seed(0)

    def _observe(self) -> TensorDict:
        b, first = self.batch_size[0], self.clock == 0
        cue = 2.0 * self.cue - 1 if first else torch.zeros(b, 2)
        observation = torch.stack([cue, torch.full((b, 2), float(self.clock == self.wait))], -1)
        state = torch.cat([2.0 * self.cue - 1, torch.full((b, 1), self.clock / self.wait)], -1)
        return TensorDict({"agents": TensorDict({"observation": observation}, (b, 2)), "state": state}, (b,))

    def _reset(self, tensordict=None, **kwargs):
        self.clock = 0
        self.cue = torch.randint(2, (self.batch_size[0], 2), generator=self.generator)
        return self._observe()

    def _step(self, tensordict):
        right = tensordict["agents", "action"] == self.cue
        reward = (right & (self.clock == self.wait)).float().unsqueeze(-1)
        self.clock += 1
        out = self._observe()
        out["agents", "reward"] = reward
        out["terminated"] = torch.full((*self.batch_size, 1), self.clock > self.wait)
        out["done"] = out["terminated"].clone()
        return out

    def _set_seed(self, seed):
        self.generator.manual_seed(seed or 0)


def learn(recurrent: str, iterations: int, envs: int = 64) -> float:
    """Trains on :class:`Echo`; the share of right answers of the best actions."""
    torch.manual_seed(0)
    steps = Echo.wait + 1
    env = wrap_env(Echo(envs), aux=None)
    network = {"hidden_sizes": (32,), "recurrent": recurrent}
    actor = make_actor(env, reads=None, inputs=[k.OBSERVATION], input_norm="none", **network)
    critic = make_critic(env, input_norm="none", **network)
    add_memory(env, actor)
    loss = make_loss(actor, critic, None, **{**SETTINGS, "gamma": 1.0, "lmbda": 0.95})
    if any(memories(loss)):
        advantages, minibatches = RecurrentAdvantages(loss), ChunkMinibatches(loss, (envs, steps), 2, steps)
    else:
        advantages, minibatches = Advantages(loss), Minibatches(loss, envs * steps, 2)
    optimizer = make_optimizer(loss, 5e-3, 5e-3, 1e-5)
    collector = Collector(
        env,
        actor,
        frames_per_batch=envs * steps,
        total_frames=iterations * envs * steps,
        auto_register_policy_transforms=False,
    )
    for batch in collector:
        minibatches.extend(advantages(batch))
        for _ in range(8):  # four epochs of two minibatches
            sum(value for name, value in loss(minibatches.sample(batch)).items() if name.startswith("loss_")).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return float(env.rollout(steps, actor, break_when_any_done=False)["next", "agents", "reward"].sum(1).mean())


def test_a_cue_is_repeated_six_steps_later_by_the_memory_alone():
    remembered, guessed = learn("gru", 15), learn("none", 15)
    assert remembered > 0.95 and guessed < 0.65
