"""A small environment of another kind, for wrap_env: discrete actions, an action mask, and an agent that dies."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase


class Skirmish(EnvBase):
    """Three agents, four actions; action 0 is the no-op of the dead; the last agent dies after two steps."""

    agents, actions, dead = 3, 4, 0

    def __init__(self, num_envs: int = 6):
        super().__init__(batch_size=[num_envs])
        b, n = num_envs, self.agents
        team = Composite(
            observation=Unbounded((b, n, 2)), action_mask=Binary(4, (b, n, 4), dtype=torch.bool), shape=(b, n)
        )
        self.observation_spec = Composite(agents=team, state=Unbounded((b, 4)), shape=(b,))
        self.action_spec = Composite(agents=Composite(action=Categorical(4, (b, n)), shape=(b, n)), shape=(b,))
        self.reward_spec = Composite(agents=Composite(reward=Unbounded((b, n, 1)), shape=(b, n)), shape=(b,))
        self.generator = torch.Generator().manual_seed(0)

    def _observe(self) -> TensorDict:
        b, n = self.batch_size[0], self.agents
        mask = torch.rand((b, n, 4), generator=self.generator) < 0.5
        mask[..., 1] = True
        mask[..., 0] = False
        if self.clock >= 2:
            mask[:, -1] = torch.tensor([True, False, False, False])
        observation = torch.randn((b, n, 2), generator=self.generator)
        state = torch.cat([observation[..., 0], observation.new_full((b, 1), self.clock)], -1)
        team = TensorDict({"observation": observation, "action_mask": mask}, (b, n))
        return TensorDict({"agents": team, "state": state}, (b,))

    def _reset(self, tensordict=None, **kwargs):
        self.clock = 0
        return self._observe()

    def _step(self, tensordict):
        self.clock += 1
        out = self._observe()
        out["agents", "reward"] = tensordict["agents", "action"].unsqueeze(-1).float()
        out["done"] = out["terminated"] = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return out

    def _set_seed(self, seed):
        self.generator.manual_seed(seed or 0)
