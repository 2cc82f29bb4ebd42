"""Hunt: the team stands on a target that it knows only by its distance."""

from __future__ import annotations

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.utils import Color, ScenarioUtils

from globediff_torchrl.envs.vmas.scenarios.target import TargetScenario
from globediff_torchrl.layout import Feature


class Scenario(TargetScenario):
    """Agents and one static target, all uniformly drawn in a walled box; nothing ends an episode.

    Reward of every agent: ``.1 * mean_i exp(-(d_i / width)^2)`` with d_i the distance of agent i to the target: the
    midpoint of two candidate places, .7 apart or more, earns next to nothing.

    Observation, 7 numbers: position, velocity, ``target.offset`` (target minus own position), ``target.range``
    (its length). With the offset hidden, one range leaves a circle, two leave two mirror points (in about half of
    the episodes both within the box), and two ranges from a moving team leave one point.

    Args (keyword arguments of ``vmas.make_env``):
        n_agents: size of the team (2).
        box: half the side of the box (.7).
        width: how near is near (.25).
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        n_agents = kwargs.pop("n_agents", 2)
        self.box = kwargs.pop("box", 0.7)
        self.width = kwargs.pop("width", 0.25)
        ScenarioUtils.check_kwargs_consumed(kwargs)
        world = World(batch_dim, device, x_semidim=self.box, y_semidim=self.box)
        for i in range(n_agents):
            # round agents that collide with nothing: rotation would be four constants an agent in the state
            shape = Sphere(radius=0.05)
            world.add_agent(Agent(f"agent_{i}", shape=shape, collide=False, rotatable=False, render_action=True))
        self.target = Landmark(name="target", collide=False, shape=Sphere(radius=0.05), color=Color.GREEN)
        world.add_landmark(self.target)
        return world

    def observation(self, agent: Agent) -> Tensor:
        offset = self.target.state.pos - agent.state.pos
        distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        return torch.cat([agent.state.pos, agent.state.vel, offset, distance], dim=-1)

    def observation_features(self) -> list[Feature]:
        return [
            Feature("agent", "position", "position", 2),
            Feature("agent", "velocity", "velocity", 2),
            Feature("target", "offset", "offset", 2),
            Feature("target", "range", "range"),
        ]
