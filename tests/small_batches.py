"""A small batch of steps, for the tests of what becomes of it."""

import torch
from tensordict import TensorDict


def batch_of(dones: list[bool], agents: int = 2):
    t = len(dones)
    team = TensorDict({"aux_observation": torch.arange(t * agents * 3.0).reshape(1, t, agents, 3)}, (1, t, agents))
    done = TensorDict({"done": torch.tensor(dones).reshape(1, t, 1)}, (1, t))
    return TensorDict({"agents": team, "state": torch.arange(t * 2.0).reshape(1, t, 2), "next": done}, (1, t))
