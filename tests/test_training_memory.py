"""Recurrent MAPPO learns a task that needs a memory, and only with one."""

from __future__ import annotations

import torch
from small_loss import SETTINGS
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import keys as k
from globediff_torchrl import make_actor, make_critic, wrap_env
from globediff_torchrl.policies import add_memory
from globediff_torchrl.policies.recurrent import memories
from globediff_torchrl.training.mappo import Advantages, Minibatches, make_loss, make_optimizer
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages


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
