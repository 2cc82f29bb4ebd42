"""Gates: what pays is the product of two hidden bits, and the product is all that the team can know."""

from __future__ import annotations

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Sphere, World
from vmas.simulator.scenario import BaseScenario
from vmas.simulator.utils import ScenarioUtils

from globediff_torchrl.layout import Feature


class Scenario(BaseScenario):
    """Two hidden bits a, b in {-1, 1}, drawn at reset; the right gate is at x = .4 a b, the wrong one at x = -.4 a b.

    Each agent sees one share u_i in {-1, 1}. The shares' product is a b; any n-1 of them are independent coins, so one
    share alone tells nothing. All of them tell a b, never a or b: two equally likely states remain, whose mean is
    (0, 0). A model that gives the mean of the state loses what pays; one sample of it does not.

    Reward of every agent, with near(x, y) = exp(-((x - y) / width)^2) and gain_i = near(x_i, .4ab) - near(x_i, -.4ab):

    - two agents: ``.1 * (5 gain_0 + near(x_1, 0)) / 6``: agent 0 is paid for the right gate and fined for the wrong
      one, agent 1 a little for keeping to the middle. An agent 0 that guesses earns nothing.
    - more agents: ``.1 * mean_i gain_i``, all are paid.

    Observation, 5 numbers: position, velocity, ``agent.share``. The state ends in ``team.bits`` = (a, b).

    Args (keyword arguments of ``vmas.make_env``):
        shares: size of the team, at least 2 (2).
        box: half the side of the walled box (.7).
        start: half the side of the square in which agents start (.5).
        width: how near is near (.25).
    """

    gate = 0.4

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        self.shares = kwargs.pop("shares", 2)
        self.box = kwargs.pop("box", 0.7)
        self.start = kwargs.pop("start", 0.5)
        self.width = kwargs.pop("width", 0.25)
        ScenarioUtils.check_kwargs_consumed(kwargs)
        if self.shares < 2:
            raise ValueError(f"gates needs at least 2 shares, one an agent, got {self.shares}.")
        world = World(batch_dim, device, x_semidim=self.box, y_semidim=self.box)
        for i in range(self.shares):
            shape = Sphere(radius=0.05)
            world.add_agent(Agent(f"agent_{i}", shape=shape, collide=False, rotatable=False, render_action=True))
        self.bits = torch.ones(batch_dim, 2, device=device)
        self.signs = torch.ones(batch_dim, self.shares, device=device)
        return world

    def reset_world_at(self, env_index: int | None = None):
        rows = slice(None) if env_index is None else slice(env_index, env_index + 1)
        for agent in self.world.agents:
            place = torch.empty_like(agent.state.pos[rows]).uniform_(-self.start, self.start)
            agent.set_pos(place, batch_index=env_index)
        coins = torch.randint(0, 2, (len(self.bits[rows]), self.shares + 1), device=self.world.device) * 2.0 - 1.0
        bits, free = coins[:, :2], coins[:, 2:]
        last = (bits.prod(dim=1) * free.prod(dim=1)).unsqueeze(-1)
        self.bits, self.signs = self.bits.clone(), self.signs.clone()
        self.bits[rows], self.signs[rows] = bits, torch.cat([free, last], dim=1)

    def reward(self, agent: Agent) -> Tensor:
        if agent is self.world.agents[0]:
            x = torch.stack([agent.state.pos[:, 0] for agent in self.world.agents], dim=1)
            right = self.gate * self.bits.prod(dim=1, keepdim=True)
            gain = self._near(x, right) - self._near(x, -right)
            if self.shares == 2:
                self._team_reward = 0.1 * (5 * gain[:, 0] + self._near(x[:, 1], 0.0)) / 6
            else:
                self._team_reward = 0.1 * gain.mean(dim=1)
        return self._team_reward

    def _near(self, x: Tensor, place: Tensor | float) -> Tensor:
        return torch.exp(-(((x - place) / self.width) ** 2))

    def observation(self, agent: Agent) -> Tensor:
        i = self.world.agents.index(agent)
        return torch.cat([agent.state.pos, agent.state.vel, self.signs[:, i : i + 1]], dim=-1)

    def success(self) -> Tensor:
        """True where every agent that is paid for a gate is within .1 of the right one, ``[B]``."""
        paid = self.world.agents[:1] if self.shares == 2 else self.world.agents
        x = torch.stack([agent.state.pos[:, 0] for agent in paid], dim=1)
        return ((x - self.gate * self.bits.prod(dim=1, keepdim=True)).abs() < 0.1).all(dim=1)

    def observation_features(self) -> list[Feature]:
        return [
            Feature("agent", "position", "position", 2),
            Feature("agent", "velocity", "velocity", 2),
            Feature("agent", "share", "flag"),
        ]

    def state_features(self) -> list[tuple[Feature, Tensor]]:
        return [(Feature("team", "bits", "flag", 2), self.bits)]
