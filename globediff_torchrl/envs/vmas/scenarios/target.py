"""What the scenarios share in which a team is paid for being near one target."""

from __future__ import annotations

import torch
from torch import Tensor
from vmas.simulator.core import Agent
from vmas.simulator.scenario import BaseScenario


class TargetScenario(BaseScenario):
    """The reward, the draw of places and the end of a task with ``self.target``, ``self.box`` and ``self.width``.

    Reward of every agent: ``.1 * mean_i exp(-(d_i / width)^2)`` with d_i the distance of agent i to the target.
    """

    def reset_world_at(self, env_index: int | None = None):
        rows = self.world.batch_dim if env_index is None else 1
        for entity in [*self.world.agents, self.target]:
            place = torch.empty(rows, 2, device=self.world.device).uniform_(-self.box, self.box)
            entity.set_pos(place, batch_index=env_index)

    def distances(self) -> Tensor:
        """Distance of each agent to the target, ``[B, n]``."""
        places = torch.stack([agent.state.pos for agent in self.world.agents], dim=1)
        return torch.linalg.vector_norm(places - self.target.state.pos.unsqueeze(1), dim=-1)

    def reward(self, agent: Agent) -> Tensor:
        if agent is self.world.agents[0]:
            self._team_reward = 0.1 * torch.exp(-((self.distances() / self.width) ** 2)).mean(dim=1)
        return self._team_reward

    def success(self) -> Tensor:
        """True where every agent is within .1 of the target, ``[B]``."""
        return (self.distances() < 0.1).all(dim=1)
