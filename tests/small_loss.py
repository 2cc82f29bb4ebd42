"""A MAPPO loss small enough to be worked out by hand: its settings, a critic that tells the state, a rollout."""

from __future__ import annotations

import torch
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import make_actor, make_critic
from globediff_torchrl.training.mappo import make_loss

SETTINGS = {
    "gamma": 0.9,
    "lmbda": 0.8,
    "clip_epsilon": 0.2,
    "clip_value": True,
    "entropy_coeff": 0.01,
    "critic_coeff": 1.0,
}


class StateAsValue(nn.Module):
    """V(s) = s, for each of two agents: ``[*B, 1] -> [*B, 2, 1]``."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, state):
        return (self.one * state).unsqueeze(-2).expand(*state.shape[:-1], 2, 1)


def loss_of(env, critic=None, value_norm=None, **changes):
    actor = make_actor(env, reads=None, hidden_sizes=(8,))
    return make_loss(actor, critic or make_critic(env, value_norm), value_norm, **{**SETTINGS, **changes})


def drawn(env, loss):
    """Five steps of the loss's actor, sampled."""
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(5, loss.actor_network, break_when_any_done=False)
