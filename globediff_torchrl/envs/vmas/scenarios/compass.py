"""Compass: navigation whose controls are turned by an angle that nobody is told."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from vmas.simulator.core import Agent, World

from globediff_torchrl.envs.vmas.scenarios.navigation import Scenario as Navigation
from globediff_torchrl.layout import Feature


class Scenario(Navigation):
    """Navigation with one goal each, in which the team's actions are rotated by an angle drawn at reset.

    Observation, 10 numbers: position, velocity, ``goal.offset``, ``agent.last_action`` (as commanded, before it is
    turned), ``team.heading`` (cosine and sine of the angle). With velocity and heading hidden, the angle shows only in
    where one's own actions lead: in the history, once one has moved.

    Args: those of :class:`~globediff_torchrl.envs.vmas.scenarios.navigation.Scenario`.
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        world = super().make_world(batch_dim, device, **kwargs)
        self.angle = torch.zeros(batch_dim, 1, device=device)
        self.commands = torch.zeros(batch_dim, self.n_agents, 2, device=device)
        return world

    def reset_world_at(self, env_index: int | None = None):
        super().reset_world_at(env_index)
        rows = slice(None) if env_index is None else slice(env_index, env_index + 1)
        self.angle, self.commands = self.angle.clone(), self.commands.clone()
        self.angle[rows] = torch.empty_like(self.angle[rows]).uniform_(-math.pi, math.pi)
        self.commands[rows] = 0.0

    def process_action(self, agent: Agent):
        command, (cos, sin) = agent.action.u, (self.angle.cos(), self.angle.sin())
        if agent is self.world.agents[0]:
            self.commands = self.commands.clone()
        self.commands[:, self.world.agents.index(agent)] = command
        x, y = command[:, :1], command[:, 1:]
        agent.action.u = torch.cat([cos * x - sin * y, sin * x + cos * y], dim=-1)

    def heading(self) -> Tensor:
        """Cosine and sine of the angle by which actions are turned, ``[B, 2]``."""
        return torch.cat([self.angle.cos(), self.angle.sin()], dim=-1)

    def observation(self, agent: Agent) -> Tensor:
        command = self.commands[:, self.world.agents.index(agent)]
        return torch.cat([super().observation(agent), command, self.heading()], dim=-1)

    def observation_features(self) -> list[Feature]:
        turned = [Feature("agent", "last_action", "action", 2), Feature("team", "heading", "rotation", 2)]
        return super().observation_features() + turned

    def state_features(self) -> list[tuple[Feature, Tensor]]:
        return [(Feature("team", "heading", "rotation", 2), self.heading())]
