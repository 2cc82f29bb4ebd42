"""Pursuit: the team keeps up with a target that it sees only from near."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.utils import Color, ScenarioUtils

from globediff_torchrl.envs.vmas.scenarios.target import TargetScenario
from globediff_torchrl.layout import Feature


class Scenario(TargetScenario):
    """A target flies in a straight line and bounces off the walls of a box; agents that are near it see it.

    Reward of every agent: ``.1 * mean_i exp(-(d_i / width)^2)``, d_i the distance of agent i to the target.

    Observation, 9 numbers: position, velocity, ``target.offset`` (target minus own position), ``target.seen`` (1 within
    ``sight``, else 0), ``target.sighting`` (the offset while seen, else zeros). With ``target.offset`` hidden, the
    target's place follows from what any of the team saw last, and when, as far as x reaches back to it.

    Args (keyword arguments of ``vmas.make_env``):
        n_agents: size of the team (3).
        box: half the side of the box (.7).
        width: how near is near (.25).
        sight: from how near the target is seen (.4).
        speed: of the target, a second; a step is a tenth (.3). Agents reach .4.
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        n_agents = kwargs.pop("n_agents", 3)
        self.box = kwargs.pop("box", 0.7)
        self.width = kwargs.pop("width", 0.25)
        self.sight = kwargs.pop("sight", 0.4)
        self.speed = kwargs.pop("speed", 0.3)
        ScenarioUtils.check_kwargs_consumed(kwargs)
        world = World(batch_dim, device, x_semidim=self.box, y_semidim=self.box)
        shape = Sphere(radius=0.05)
        for i in range(n_agents):
            world.add_agent(Agent(f"agent_{i}", shape=shape, collide=False, rotatable=False, render_action=True))
        # without drag and collisions VMAS itself keeps it on a straight line
        self.target = Landmark("target", shape=shape, collide=False, movable=True, drag=0.0, color=Color.RED)
        world.add_landmark(self.target)
        return world

    def reset_world_at(self, env_index: int | None = None):
        super().reset_world_at(env_index)
        rows = self.world.batch_dim if env_index is None else 1
        angle = torch.empty(rows, 1, device=self.world.device).uniform_(-math.pi, math.pi)
        velocity = self.speed * torch.cat([angle.cos(), angle.sin()], dim=-1)
        self.target.set_vel(velocity, batch_index=env_index)

    def post_step(self):
        # the walls stop the target; turn it back inwards
        state = self.target.state
        inwards = -state.pos.sign() * state.vel.abs()
        state.vel = torch.where(state.pos.abs() >= self.box, inwards, state.vel)

    def observation(self, agent: Agent) -> Tensor:
        offset = self.target.state.pos - agent.state.pos
        seen = (torch.linalg.vector_norm(offset, dim=-1, keepdim=True) <= self.sight).to(offset.dtype)
        return torch.cat([agent.state.pos, agent.state.vel, offset, seen, seen * offset], dim=-1)

    def observation_features(self) -> list[Feature]:
        return [
            Feature("agent", "position", "position", 2),
            Feature("agent", "velocity", "velocity", 2),
            Feature("target", "offset", "offset", 2),
            Feature("target", "seen", "flag"),
            Feature("target", "sighting", "offset", 2),
        ]
