"""VMAS worlds put up by hand, and players that know where to go."""

from __future__ import annotations

import torch


def world_of(env):
    return env.base_env._env.world


def put(env, places, target=None):
    """Agents (and the landmark) of every environment at given places, at rest."""
    world = world_of(env)
    for agent, place in zip(world.agents, places):
        agent.set_pos(torch.tensor([place]).expand(env.num_envs, -1).clone(), batch_index=None)
    if target is not None:
        world.landmarks[0].set_pos(torch.tensor([target]).expand(env.num_envs, -1).clone(), batch_index=None)


def still(env, td):
    td["agents", "action"] = torch.zeros(*env.batch_size, env.task.n_agents, 2)
    return env.step(td)["next"]


def play(env, goal, steps):
    """Return of a team whose agents steer to ``goal(env, td)`` ``[B, n, 2]``, on average over the batch."""
    td, total = env.reset(), 0.0
    for _ in range(steps):
        agents = torch.stack([torch.cat([a.state.pos, a.state.vel], dim=-1) for a in world_of(env).agents], dim=1)
        td["agents", "action"] = (8 * (goal(env, td) - agents[..., :2]) - 3 * agents[..., 2:]).clamp(-1, 1)
        step, td = env.step_and_maybe_reset(td)
        total = total + step["next", "agents", "reward"]
    return total.mean().item()
