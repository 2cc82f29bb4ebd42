"""Sonar: ranges from a rail cannot tell the side, and what pays is how far off the rail the source is."""

from __future__ import annotations

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.scenario import BaseScenario
from vmas.simulator.utils import Color, ScenarioUtils

from globediff_torchrl.layout import Feature


class Scenario(BaseScenario):
    """Two listeners and a runner on the rail y = 0, and a hidden source at (x_s, y_s), off the rail on either side.

    The ranges of the two listeners fix x_s and abs(y_s), never the sign of y_s: two equally likely places remain, whose
    mean lies on the rail and says nothing of abs(y_s). The source is near the rail (.1 to .25) or far from it (.5 to
    .65), x_s up to 1.1 to either side, beyond the ends of the rail too; the runner's berth is at x = g = -.4 for a near
    one, .4 for a far one. Either place gives it away, their mean does not, and an actor that is given the ranges has to
    learn the triangulation.

    The listeners stand still, one on each half of the rail. Reward of every agent, with near(x, y) =
    exp(-((x - y) / width)^2): ``.1 * (near(x_2, g) - near(x_2, -g))``: the runner is paid for its berth and fined for
    the other one, so that guessing earns nothing.

    Observation, 7 numbers: position, velocity, ``source.offset`` (source minus own position), ``source.heard`` (its
    length for the listeners, zero for the runner, which is deaf).

    Args (keyword arguments of ``vmas.make_env``):
        box: half the length of the rail (.7).
        width: how near is near (.25).
    """

    berths, side = 0.4, 1.1
    near, far = (0.1, 0.25), (0.5, 0.65)

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        self.box = kwargs.pop("box", 0.7)
        self.width = kwargs.pop("width", 0.25)
        ScenarioUtils.check_kwargs_consumed(kwargs)
        world = World(batch_dim, device, x_semidim=self.box, y_semidim=self.box)
        for i in range(3):
            shape = Sphere(radius=0.05)
            world.add_agent(Agent(f"agent_{i}", shape=shape, collide=False, rotatable=False, render_action=True))
        self.source = Landmark(name="source", collide=False, shape=Sphere(radius=0.05), color=Color.GREEN)
        world.add_landmark(self.source)
        self.along = torch.tensor([1.0, 0.0], device=device)  # the rail
        return world

    def reset_world_at(self, env_index: int | None = None):
        rows = self.world.batch_dim if env_index is None else 1
        halves = ((-self.box, -0.2), (0.2, self.box), (-self.box, self.box))
        for agent, (low, high) in zip(self.world.agents, halves):
            agent.set_pos(self._draw(rows, low, high) * self.along, batch_index=env_index)
        near, far = (self._draw(rows, *band)[:, :1] for band in (self.near, self.far))
        coins = torch.where(self._draw(rows, -1.0, 1.0) < 0, -1.0, 1.0)
        height = coins[:, :1] * torch.where(coins[:, 1:] < 0, near, far)
        place = self._draw(rows, -self.side, self.side)[:, :1]
        self.source.set_pos(torch.cat([place, height], dim=-1), batch_index=env_index)

    def _draw(self, rows: int, low: float, high: float) -> Tensor:
        return torch.empty(rows, 2, device=self.world.device).uniform_(low, high)

    def process_action(self, agent: Agent):
        if agent is self.world.agents[2]:
            agent.action.u = agent.action.u * self.along
        else:
            agent.action.u = torch.zeros_like(agent.action.u)

    def berth(self) -> Tensor:
        """Where the runner is paid, ``[B]``."""
        far = self.source.state.pos[:, 1].abs() > 0.5 * (self.near[1] + self.far[0])
        return torch.where(far, self.berths, -self.berths)

    def reward(self, agent: Agent) -> Tensor:
        if agent is self.world.agents[0]:
            x, berth = self.world.agents[2].state.pos[:, 0], self.berth()
            self._team_reward = 0.1 * (self._near(x, berth) - self._near(x, -berth))
        return self._team_reward

    def _near(self, x: Tensor, place: Tensor) -> Tensor:
        return torch.exp(-(((x - place) / self.width) ** 2))

    def observation(self, agent: Agent) -> Tensor:
        offset = self.source.state.pos - agent.state.pos
        hears = 0.0 if agent is self.world.agents[2] else 1.0
        range_ = hears * torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        return torch.cat([agent.state.pos, agent.state.vel, offset, range_], dim=-1)

    def success(self) -> Tensor:
        """True where the runner is within .1 of its berth, ``[B]``."""
        return (self.world.agents[2].state.pos[:, 0] - self.berth()).abs() < 0.1

    def observation_features(self) -> list[Feature]:
        return [
            Feature("agent", "position", "position", 2),
            Feature("agent", "velocity", "velocity", 2),
            Feature("source", "offset", "offset", 2),
            Feature("source", "heard", "range"),
        ]
