"""One episode and what an agent inferred in each of its steps: what a video draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import keys
from globediff_torchrl.evaluation.episodes import first_episodes, run_episodes
from globediff_torchrl.layout import FeatureLayout
from globediff_torchrl.policies.ego_view import EgoView
from globediff_torchrl.random_streams import preserve_rng
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.task import Task, task_of

ALIKE = 1e-5  # of a number's spread: samples no further apart are one answer


@dataclass(frozen=True)
class Episode:
    """One episode and what one agent inferred in each of its ``T`` steps.

    Args:
        task: what the environment asks; ``task.state_layout`` says what the numbers of a state are,
            ``task.inferred_layout`` those of ``truth``, ``hypotheses`` and ``mean``.
        agent: whose inference it is; None where nothing is inferred, or once for the team.
        state: true states ``[T, d_s]``, each as it was when the agents chose their actions.
        returns: return up to and including the step ``[T]``, mean over agents.
        inference: one line on how the state was inferred.
        truth: ``[T, d_t]``, what is to be inferred as it is; None for the state.
        hypotheses: ``[T, S, d_t]``, or None without a state model; S = 1 where the model gives but one answer.
        mean: ``[T, d_t]``: the model's own estimate of the mean, else the mean of the hypotheses; or None.
        scale: ``[d_t]``, the spread of each number in the data that the state model was trained on.
    """

    task: Task
    agent: int | None
    state: Tensor
    returns: Tensor
    inference: str
    truth: Tensor
    hypotheses: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None

    @property
    def layout(self) -> FeatureLayout:
        return self.task.state_layout

    @property
    def inferred_layout(self) -> FeatureLayout:
        return self.task.inferred_layout


@torch.no_grad()
def run_episode(
    env: EnvBase,
    policy: Callable[[TensorDictBase], TensorDictBase],
    *,
    hypotheses: int = 16,
    agent: int = 0,
    seed: int = 0,
    mode: str = "deterministic",
    max_steps: int | None = None,
) -> Episode:
    """Play the first episode of an environment's first copy; arguments as those of :func:`record_episode`."""
    task = task_of(env, "record_episode")
    rollout = run_episodes(env, policy, mode, seed, max_steps or task.horizon)
    rollout = rollout[0][first_episodes(rollout)[0]]
    facts = {
        "task": task,
        "state": rollout.get(keys.STATE).cpu(),
        "returns": rollout.get(("next", *keys.EPISODE_REWARD)).mean((-1, -2)).cpu(),
    }
    facts["truth"] = facts["state"] if task.target_layout is None else rollout.get(keys.TARGET_STATE)[:, agent].cpu()
    model = state_model_of(policy)
    if model is None:
        return Episode(**facts, agent=None, inference="nothing is inferred")
    samples, mean = draw_hypotheses(model, rollout, hypotheses, agent, seed)
    whose = "once for the team" if model.infer_per == "team" else f"for agent {agent}"
    name = type(model).__name__.removesuffix("StateModel")
    return Episode(
        **facts,
        agent=None if model.infer_per == "team" else agent,
        inference=f"{name} infers the state from x = {task.aux}, {whose}",
        hypotheses=samples.cpu(),
        mean=mean.cpu(),
        scale=model.state_spread.cpu(),
    )


def state_model_of(policy: object) -> StateModel | None:
    """The state model among the modules of a policy, of several one that the actor reads; None where it has none."""
    modules = list(policy.modules()) if isinstance(policy, nn.Module) else []  # also of a compiled or wrapped policy
    read = {key for module in modules if isinstance(module, EgoView) for key in module.in_keys}
    models = [module for module in modules if isinstance(module, StateModel)]
    return max(models, key=lambda model: not read.isdisjoint(model.out_keys), default=None)  # else the first


@torch.no_grad()
def draw_hypotheses(
    model: StateModel, rollout: TensorDictBase, hypotheses: int, agent: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Samples of the state for what one agent knew, and their mean.

    Args:
        model: the state model.
        rollout: ``[T]`` steps, with what the model reads.
        hypotheses: S, samples for each step.
        agent: whose.
        seed: the random numbers of every step start from it.

    Returns:
        ``[T, S, d_s]``, S = 1 where all samples are one, as a regression's are; and the mean ``[T, d_s]``.
    """
    inputs = [key for key in (model.aux_key, model.state_key) if key in model.in_keys]
    samples, means = [], []
    with preserve_rng(seed), set_exploration_type(ExplorationType.RANDOM):
        for row in rollout.unbind(0):
            torch.manual_seed(seed)  # the same latents and noise in every step
            copies = {key: row.get(key).expand(hypotheses, *row.get(key).shape) for key in inputs}
            answer = model(TensorDict(copies, (hypotheses,), device=rollout.device))
            samples.append(answer.get(model.inferred_key)[:, agent])
            own_mean = answer.get(model.mean_key) if getattr(model, "mean_key", None) in model.out_keys else None
            means.append(samples[-1].mean(0) if own_mean is None else own_mean[0, agent])
    drawn = torch.stack(samples)
    # rows of one batch may differ by rounding; in which unit the state is says nothing of how far samples are apart
    alike = ALIKE * model.state_spread + 4 * torch.finfo(drawn.dtype).eps * drawn.abs()
    if ((drawn - drawn[:, :1]).abs() <= alike).all():
        drawn = drawn[:, :1]
    return drawn, torch.stack(means)
