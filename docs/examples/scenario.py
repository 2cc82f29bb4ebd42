"""A VMAS scenario of one's own as a preset: two agents must meet on a spot that one of them sees."""

import torch
from tensordict.nn import TensorDictSequential
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.scenario import BaseScenario
from vmas.simulator.utils import ScenarioUtils

from globediff_torchrl import GlobeDiff, make_actor, make_env
from globediff_torchrl.envs import Feature, describe_hidden
from globediff_torchrl.envs.vmas import PRESETS, Preset


class Meet(BaseScenario):
    """Reward of both agents: minus their mean distance to the spot. Nothing ends an episode but the time limit."""

    def make_world(self, batch_dim: int, device: torch.device, **kwargs) -> World:
        self.box = kwargs.pop("box", 0.7)  # make_env("vmas/meet", box=1.0), +env.kwargs.box=1.0
        ScenarioUtils.check_kwargs_consumed(kwargs)  # else a misspelt argument would change nothing, without a word
        world = World(batch_dim, device, x_semidim=self.box, y_semidim=self.box)
        for i in range(2):
            world.add_agent(Agent(f"agent_{i}", shape=Sphere(0.05), collide=False, rotatable=False))
        self.spot = Landmark("spot", collide=False, shape=Sphere(0.05))
        world.add_landmark(self.spot)
        return world

    def reset_world_at(self, env_index: int | None = None):
        rows = self.world.batch_dim if env_index is None else 1
        for entity in [*self.world.agents, self.spot]:
            place = torch.empty(rows, 2, device=self.world.device).uniform_(-self.box, self.box)
            entity.set_pos(place, batch_index=env_index)

    def distances(self) -> torch.Tensor:
        return torch.stack([(a.state.pos - self.spot.state.pos).norm(dim=-1) for a in self.world.agents], dim=1)

    def reward(self, agent: Agent) -> torch.Tensor:
        return -self.distances().mean(dim=1)

    def observation(self, agent: Agent) -> torch.Tensor:
        return torch.cat([agent.state.pos, agent.state.vel, self.spot.state.pos - agent.state.pos], dim=-1)

    # what follows is optional: names for the numbers, so that they can be hidden; success, so that it is reported
    def observation_features(self) -> list[Feature]:
        return [
            Feature("agent", "position", "position", 2),
            Feature("agent", "velocity", "velocity", 2),
            Feature("spot", "offset", "offset", 2),
        ]

    def success(self) -> torch.Tensor:
        return (self.distances() < 0.1).all(dim=1)


# in the repository: the class in envs/vmas/scenarios/, this entry in envs/vmas/presets.py
PRESETS["meet"] = Preset(
    Meet,
    hide=("agent_0.spot.offset",),  # agent 0 does not see the spot, agent 1 does
    aux="joint",
    max_steps=50,
    description="two agents meet on a spot that one of them sees",
)

env = make_env("vmas/meet", num_envs=8, seed=0)
print(describe_hidden(env.task))
globediff = GlobeDiff.from_env(env)
policy = TensorDictSequential(globediff, make_actor(env, globediff))
rollout = env.rollout(50, policy, break_when_any_done=False)
