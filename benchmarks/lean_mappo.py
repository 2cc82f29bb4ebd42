"""A lean MAPPO in plain PyTorch on raw VMAS, as a yardstick for the speed of this project's trainer.

    python benchmarks/lean_mappo.py --env hunt --seed 100

The same job as ``python benchmarks/vmas.py algorithm=mappo``: scenario, hidden features, networks, running
normalisation, generalised advantages, clipping, tanh-normal actions and learning rates. No TorchRL, no tensordict, and
none of what a user of the trainer gets beside the learning: no checkpoints, tables, evaluations, other environments,
discrete actions, dying agents or checks. Prints the return, frames per second and frames per CPU-second.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
import vmas
from torch import Tensor, nn

from globediff_torchrl.envs.vmas import scenarios

# scenario, its arguments, columns of the observation to hide, steps of an episode
TASKS = {
    "hunt": (scenarios.Hunt, {}, slice(4, 6), 60),
    "relay": (scenarios.Navigation, {"n_agents": 3, "mates_goals": True}, slice(4, 6), 50),
    "trilateration": (
        scenarios.Navigation, {"n_agents": 3, "shared_goal": True, "goal_range": True}, slice(4, 6), 50,
    ),
    "gates": (scenarios.Gates, {}, slice(0, 0), 50),
}  # fmt: skip
GAMMA, LAMBDA = 0.98, 0.95
LR, FINAL_LR = 2e-3, 0.1  # falls linearly to this share
CLIP, MAX_GRAD_NORM = 0.2, 0.5


class RunningNorm(nn.Module):
    """Standardises ``[*, d]`` by all that ``update`` has seen; constant features keep the scale 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.count, self.sum, self.sum_sq = 0, 0.0, 0.0
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1]).double()
        self.count += len(x)
        self.sum += x.sum(0)
        self.sum_sq += x.square().sum(0)
        mean = self.sum / self.count
        variance = self.sum_sq / self.count - mean.square()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(variance > 1e-10, variance, 1.0).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.scale).clamp(-10, 10)


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Running normalisation, two hidden layers of 64 with tanh, a linear head."""
    layers = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, layer_gain in zip(layers, (5 / 3, 5 / 3, gain)):
        nn.init.orthogonal_(layer.weight, layer_gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(RunningNorm(inputs), layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Actor(nn.Module):
    """A normal distribution before the tanh; its scale does not depend on the observation."""

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.net = network(inputs, actions, 0.01)
        self.log_scale = nn.Parameter(torch.full((actions,), math.log(1.5)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), self.log_scale.clamp(-5, 2).exp()


def log_prob(u: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Of ``u [*, d_a]`` before the tanh, whose Jacobian drops out of the ratio of two policies, but for a constant."""
    return -(0.5 * ((u - loc) / scale).square() + scale.log()).sum(-1)


def true_state(env: vmas.simulator.environment.Environment) -> Tensor:
    """Positions, velocities and hidden facts of the whole world, ``[B, d_s]``."""
    parts = []
    for entity in env.world.agents + env.world.landmarks:
        parts += [entity.state.pos, entity.state.vel] if entity.movable else [entity.state.pos]
    facts = getattr(env.scenario, "state_features", list)
    return torch.cat(parts + [value for _, value in facts()], dim=-1)


class Data:
    """One episode of each environment, time first."""

    def __init__(self, steps: int, envs: int, agents: int, observed: int, state: int, actions: int, device: str):
        self.x = torch.zeros(steps, envs, agents, observed + agents + 1, device=device)  # what the actor reads
        self.x[..., observed:-1] = torch.eye(agents)
        self.x[..., -1] = torch.arange(steps).view(-1, 1, 1) / steps
        self.state = torch.zeros(steps + 1, envs, state, device=device)  # the last one for the bootstrap
        self.u = torch.zeros(steps, envs, agents, actions, device=device)  # actions before the tanh
        self.log_prob = torch.zeros(steps, envs, agents, device=device)
        self.reward = torch.zeros(steps, envs, agents, device=device)


@torch.no_grad()
def collect(env, actor: Actor, data: Data, hidden: slice) -> None:
    """Plays one episode in every environment and fills ``data``."""
    observation = env.reset()
    width = observation[0].shape[-1]
    for t in range(len(data.u)):
        x = data.x[t]
        x[..., :width] = torch.stack(observation, 1)
        x[..., hidden] = 0.0
        data.state[t] = true_state(env)
        loc, scale = actor(x)
        u = loc + scale * torch.randn_like(loc)
        data.u[t], data.log_prob[t] = u, log_prob(u, loc, scale)
        observation, reward, _, _ = env.step(list(u.tanh().unbind(1)))
        data.reward[t] = torch.stack(reward, 1)
    data.state[-1] = true_state(env)


def gae(reward: Tensor, value: Tensor) -> Tensor:
    """Advantages ``[T, B, n]`` from rewards ``[T, B, n]`` and values ``[T + 1, B, 1]``; the time limit bootstraps."""
    advantage, last = torch.empty_like(reward), 0.0
    for t in reversed(range(len(reward))):
        last = reward[t] + GAMMA * value[t + 1] - value[t] + GAMMA * LAMBDA * last
        advantage[t] = last
    return advantage


def update(actor, critic, value_norm, optimizer, data: Data, epochs: int, minibatches: int) -> None:
    """Clipped policy and value losses over random minibatches of frames."""
    with torch.no_grad():
        output = critic(data.state)
        value = output / value_norm.scale + value_norm.mean  # [T + 1, B, 1]
        advantage = gae(data.reward, value)
        target = advantage + value[:-1]
        value_norm.update(target.unsqueeze(-1))
        advantage = (advantage - advantage.mean()) / advantage.std().clamp(min=1e-5)
        old_value = output[:-1]  # not in the units of the new norm: its own move is none of the critic's
        target = (target - value_norm.mean) * value_norm.scale
    columns = (data.x, data.state[:-1], data.u, data.log_prob, advantage, target, old_value)
    columns = [column.flatten(0, 1) for column in columns]
    for _ in range(epochs):
        order = torch.randperm(len(columns[0]), device=data.x.device)
        for rows in order.chunk(minibatches):
            x, state, u, old_log_prob, adv, tgt, old = (column[rows] for column in columns)
            ratio = (log_prob(u, *actor(x)) - old_log_prob).exp()
            policy_loss = -torch.min(ratio * adv, ratio.clamp(1 - CLIP, 1 + CLIP) * adv).mean()
            v = critic(state)
            clipped = old + (v - old).clamp(-CLIP, CLIP)
            value_loss = torch.max((v - tgt).square(), (clipped - tgt).square()).mean()
            optimizer.zero_grad()
            (policy_loss + value_loss).backward()
            for network in (actor, critic):
                nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
            optimizer.step()


def train(args: argparse.Namespace) -> dict[str, float]:
    """Trains; returns the mean return of the last three iterations, and the speed without the first one."""
    torch.manual_seed(args.seed)
    scenario, kwargs, hidden, steps = TASKS[args.env]
    env = vmas.make_env(
        scenario(), args.num_envs, args.device, continuous_actions=True, seed=args.seed, max_steps=None, **kwargs
    )
    agents, actions = len(env.agents), env.agents[0].action_size
    data = Data(steps, args.num_envs, agents, env.reset()[0].shape[-1], true_state(env).shape[-1], actions, args.device)
    actor = Actor(data.x.shape[-1], actions).to(args.device)
    critic, value_norm = network(data.state.shape[-1], 1, 1.0).to(args.device), RunningNorm(1).to(args.device)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=LR, eps=1e-5, fused=True)

    collect(env, actor, data, hidden)  # the first input statistics
    returns, marks = [], []
    for iteration in range(args.iterations):
        optimizer.param_groups[0]["lr"] = LR * (1 + (FINAL_LR - 1) * iteration / args.iterations)
        actor.net[0].update(data.x)
        critic[0].update(data.state[:-1])
        start = time.perf_counter()
        collect(env, actor, data, hidden)
        collected = time.perf_counter()
        update(actor, critic, value_norm, optimizer, data, args.epochs, args.minibatches)
        end = time.perf_counter()
        marks.append((end, time.process_time(), collected - start, end - collected))
        returns.append(float(data.reward.mean(-1).sum(0).mean()))
        print(f"{(iteration + 1) * args.num_envs * steps:>9,} frames  return {returns[-1]:.3f}")
    measured = len(marks) - 1
    seconds, cpu = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
    frames = measured * args.num_envs * steps
    return {
        "return": sum(returns[-3:]) / len(returns[-3:]),
        "frames_per_s": frames / seconds,
        "frames_per_cpu_s": frames / cpu,
        "collect_s": sum(mark[2] for mark in marks[1:]) / measured,
        "update_s": sum(mark[3] for mark in marks[1:]) / measured,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=list(TASKS), default="hunt")
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=36, help="of one episode of each environment; at least 2")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="a file for the result, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = train(args)
    print(
        f"{args.env}: return {result['return']:.3f} (last 3 iterations), {result['frames_per_s']:,.0f} frames/s, "
        f"{result['frames_per_cpu_s']:,.0f} frames per CPU-second"
    )
    if args.output is not None:
        args.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
