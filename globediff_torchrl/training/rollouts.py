"""Rollouts of the trainer's policy beside those of its collector: to warm up on, and to evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl.envs import preserve_vmas_rng
from globediff_torchrl.evaluation.episodes import evaluate
from globediff_torchrl.policies import add_memory
from globediff_torchrl.training.algorithms import env_from_config
from globediff_torchrl.training.config import main_config
from globediff_torchrl.training.trainer import MAPPOTrainer


def warm_up(trainer: MAPPOTrainer) -> TensorDictBase:
    """One rollout ``[B, T]`` of the training's environments, as long as an episode; actions are drawn."""
    env, steps = trainer.env, trainer.env.task.horizon
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        rollout = env.rollout(steps, trainer.team.policy, break_when_any_done=False)
    if not trainer.collector.reset_at_each_iter:
        trainer.collector.reset()  # it would go on from where it was made, the simulator from where the rollout ended
    return rollout


def make_evaluator(trainer: MAPPOTrainer) -> Callable[[bool], dict[str, float]]:
    """``run(final)``: evaluates the policy on environments of its own, with the evaluation's seed.

    They are made once for each number of them, leave VMAS's random stream as it was, and are closed by ``run(True)``,
    which plays ``evaluation.final_episodes`` in place of ``evaluation.episodes``. Those of SMAC, each with an engine of
    some GB, are closed by every ``run`` and made anew by the next. See
    :func:`~globediff_torchrl.evaluation.episodes.evaluate` for what it returns.
    """
    config = trainer.config
    settings, envs = config.evaluation, {}
    engines = main_config(config.env.family) == "smac"

    def run(final: bool) -> dict[str, float]:
        episodes = settings.final_episodes if final else settings.episodes
        count = min(episodes, settings.num_envs or episodes)
        if count not in envs:
            with preserve_vmas_rng():
                env = env_from_config(config, num_envs=count, seed=settings.seed)
                envs[count] = add_memory(env, trainer.team.policy)
        env, steps = envs[count], envs[count].task.horizon
        rounds = math.ceil(episodes / count)
        results = evaluate(env, trainer.team.policy, seed=settings.seed, max_steps=steps, rounds=rounds)
        while envs and (final or engines):
            envs.popitem()[1].close()
        return results

    return run
