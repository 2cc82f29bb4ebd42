"""Navigation to goals that an agent may know only in part: relay, trilateration, mirror."""

from __future__ import annotations

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Entity, Landmark, Sphere, World
from vmas.simulator.scenario import BaseScenario
from vmas.simulator.utils import Color, ScenarioUtils

from globediff_torchrl.layout import Feature


class Scenario(BaseScenario):
    """Each agent goes to its goal; nothing ends an episode, so that returns of a fixed horizon can be compared.

    Reward of every agent, as in VMAS's own navigation: the sum over the team of the distance gained in the step, and
    .01 while everybody is on its goal. Nothing collides.

    Observation: position, velocity, ``goal.offset`` (goal minus own position); with ``mates_goals`` the offsets of
    the mates' goals, also from the observer, in the order i+1, i+2, ...; with ``goal_range`` the distance of the goal.

    Args (keyword arguments of ``vmas.make_env``):
        n_agents: size of the team (3).
        shared_goal: one goal for all, in place of one each.
        mates_goals: agents see the goals of the others.
        goal_range: agents see how far their goal is.
        box: half the side of the square in which agents and goals are drawn (.5); the world has no walls.
    """

    radius = 0.05

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        self.n_agents = kwargs.pop("n_agents", 3)
        self.shared_goal = kwargs.pop("shared_goal", False)
        self.mates_goals = kwargs.pop("mates_goals", False)
        self.goal_range = kwargs.pop("goal_range", False)
        self.box = kwargs.pop("box", 0.5)
        ScenarioUtils.check_kwargs_consumed(kwargs)
        world = World(batch_dim, device, substeps=2)
        shape = Sphere(radius=self.radius)
        for i in range(self.n_agents):
            # round agents that collide with nothing: rotation would be four constants an agent in the state
            agent = Agent(f"agent_{i}", shape=shape, collide=False, rotatable=False, render_action=True)
            world.add_agent(agent)
        names = ["goal"] if self.shared_goal else [f"goal_{i}" for i in range(self.n_agents)]
        self.goals = [Landmark(name, shape=shape, collide=False, color=Color.GREEN) for name in names]
        for goal in self.goals:
            world.add_landmark(goal)
        for i, agent in enumerate(world.agents):
            agent.goal = self.goals[0 if self.shared_goal else i]
        self._distances = torch.zeros(batch_dim, self.n_agents, device=device)
        return world

    def reset_world_at(self, env_index: int | None = None):
        bounds = (-self.box, self.box)
        spread: list[Entity] = [*self.world.agents, *self.goals]
        apart = 2 * self.radius + 0.05
        ScenarioUtils.spawn_entities_randomly(spread, self.world, env_index, apart, bounds, bounds)
        rows = slice(None) if env_index is None else env_index
        # a fresh tensor, not a write into the old one, which a reader may hold
        self._distances = self._distances.clone()
        self._distances[rows] = self.distances()[rows]

    def distances(self) -> Tensor:
        """Distance of each agent to its goal, ``[B, n]``."""
        offsets = [agent.goal.state.pos - agent.state.pos for agent in self.world.agents]
        return torch.linalg.vector_norm(torch.stack(offsets, dim=1), dim=-1)

    def reward(self, agent: Agent) -> Tensor:
        if agent is self.world.agents[0]:
            distances = self.distances()
            arrived = (distances < self.radius).all(dim=1)
            self._team_reward = (self._distances - distances).sum(dim=1) + 0.01 * arrived
            self._distances = distances
        return self._team_reward

    def observation(self, agent: Agent) -> Tensor:
        offset = agent.goal.state.pos - agent.state.pos
        parts = [agent.state.pos, agent.state.vel, offset]
        if self.mates_goals:
            i = self.world.agents.index(agent)
            mates = [self.world.agents[(i + k) % self.n_agents] for k in range(1, self.n_agents)]
            parts += [mate.goal.state.pos - agent.state.pos for mate in mates]
        if self.goal_range:
            parts.append(torch.linalg.vector_norm(offset, dim=-1, keepdim=True))
        return torch.cat(parts, dim=-1)

    def success(self) -> Tensor:
        """True where everybody is on its goal, ``[B]``."""
        return (self.distances() < self.radius).all(dim=1)

    def observation_features(self) -> list[Feature]:
        features = [
            Feature("agent", "position", "position", 2),
            Feature("agent", "velocity", "velocity", 2),
            Feature("goal", "offset", "offset", 2),
        ]
        if self.mates_goals:
            features += [Feature(f"goal_of_mate_{k}", "offset", "offset", 2) for k in range(1, self.n_agents)]
        if self.goal_range:
            features.append(Feature("goal", "range", "range"))
        return features
