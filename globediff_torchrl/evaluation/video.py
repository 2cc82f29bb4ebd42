"""An episode as a moving picture: what the team infers, drawn over what is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.evaluation.episodes import MODES, first_episodes, preserve_rng, run_episodes
from globediff_torchrl.layout import FeatureLayout
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.task import Task, task_of

SUFFIXES = (".gif", ".png")
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
    truth: Tensor | None = None
    hypotheses: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        if self.truth is None:
            object.__setattr__(self, "truth", self.state)

    @property
    def layout(self) -> FeatureLayout:
        return self.task.state_layout

    @property
    def inferred_layout(self) -> FeatureLayout:
        return self.task.inferred_layout


def record_episode(
    env: EnvBase,
    policy: Callable[[TensorDictBase], TensorDictBase],
    path: str | Path,
    *,
    hypotheses: int = 16,
    agent: int = 0,
    seed: int = 0,
    mode: str = "deterministic",
    max_steps: int | None = None,
    step: int | None = None,
    fps: int = 6,
    progress: bool = True,
) -> Episode:
    """Runs an episode of the first environment and draws it, the inferred hypotheses over the true state.

    Every position of the state is drawn where it is. What the agent is not sure of has a colour of its own: its true
    place a star (a disc for an agent), each hypothesis a dot, their mean a cross; hidden facts that are no positions
    stand in panels beside it. Where a target of its own is inferred, as with SMAX's ``state_target="relative"``, the
    map shows the true state, with a colour for whatever a panel is about. The dots are samples of the policy's state
    model for the agent's x, as it draws them under ``ExplorationType.RANDOM``; hypothesis ``i`` has the same latent and
    noise in every step, so that the cloud moves only as x does. A policy without a state model gets the truth alone.

    Args:
        env: an environment of ``make_env`` or ``wrap_env``, used for nothing else; one copy (``num_envs=1``) is enough.
        policy: chooses the actions. Its state model is the first :class:`StateModel` among its modules.
        path: ``.gif`` for the whole episode, one frame a step; ``.png`` for one ``step``. Folders are made.
        hypotheses: how many samples of the state are drawn.
        agent: whose inference is drawn.
        seed: of the environment, the policy and the samples; the random streams of a training stay as they are.
        mode: of the policy, ``"deterministic"`` or ``"stochastic"``.
        max_steps: longest episode; by default the task's time limit, or 100 steps.
        step: the step that a ``.png`` shows, counted from 1.
        fps: frames a second of a ``.gif``; 1 to 50.
        progress: shows a bar.

    Returns:
        What was drawn.

    Raises:
        UserError: an environment without a task or without positions in its state, a number out of range, a path of
            another kind.

    Example:
        >>> env, policy = load_policy("runs/first", num_envs=1)
        >>> record_episode(env, policy, "hunt.gif")
        >>> record_episode(env, policy, "hunt.png", step=1)
    """
    path = Path(path)
    _check(env, path, hypotheses, agent, mode, max_steps, step, fps)
    from globediff_torchrl.evaluation.episode_figure import EpisodeFigure

    episode = run_episode(env, policy, hypotheses=hypotheses, agent=agent, seed=seed, mode=mode, max_steps=max_steps)
    steps = len(episode.state)
    if step is not None and step > steps:
        raise UserError(
            f"step must be one of the episode's {steps}, got {step}: choose a smaller one, or another seed."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = EpisodeFigure(episode)
    if path.suffix == ".png":
        figure.show(step - 1)
        figure.save(path)
    else:
        figure.animate(path, fps, tqdm(range(steps), desc=f"drawing {path.name}", disable=not progress, leave=False))
    return episode


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
    """The episode that :func:`record_episode` draws."""
    task = task_of(env, "record_episode")
    rollout = run_episodes(env, policy, mode, seed, max_steps or task.horizon)
    rollout = rollout[0][first_episodes(rollout)[0]]
    facts = {
        "task": task,
        "state": rollout.get(keys.STATE).cpu(),
        "returns": rollout.get(("next", *keys.EPISODE_REWARD)).mean((-1, -2)).cpu(),
    }
    if task.target_layout is not None:
        facts["truth"] = rollout.get(keys.TARGET_STATE)[:, agent].cpu()
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
    """The first state model among the modules of a policy; None where it has none."""
    modules = policy.modules() if isinstance(policy, TensorDictModuleBase) else ()
    return next((module for module in modules if isinstance(module, StateModel)), None)


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


def check_drawable(task: Task) -> None:
    """Refuses a task without positions in its state: there would be no map.

    Raises:
        UserError: names what the state has.
    """
    layout = task.state_layout
    if not any(feature.kind == "position" and feature.size == 2 for feature in layout.features):
        names = ", ".join(layout.names[:8]) + (", ..." if len(layout.names) > 8 else "")
        raise UserError(
            f"{task.name} cannot be drawn: its state has no feature of kind 'position' with two numbers (it has "
            f"{names}). Give wrap_env a state_layout that says which numbers are positions, or leave the video away."
        )


def _check(
    env: EnvBase,
    path: Path,
    hypotheses: int,
    agent: int,
    mode: str,
    max_steps: int | None,
    step: int | None,
    fps: int,
) -> None:
    task = task_of(env, "record_episode")
    check_drawable(task)
    if path.suffix not in SUFFIXES:
        raise UserError(f"the path of a video must end in .gif (or .png, for one step), got {str(path)!r}.")
    if (path.suffix == ".png") != (step is not None):
        raise UserError(f"step belongs to a .png, and a .png needs one; got path {str(path)!r} and step={step}.")
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    numbers = (
        ("hypotheses", hypotheses, 1, None),
        ("agent", agent, 0, task.n_agents - 1),
        ("max_steps", 1 if max_steps is None else max_steps, 1, None),
        ("step", 1 if step is None else step, 1, None),
        ("fps", fps, 1, 50),
    )
    for name, value, low, high in numbers:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            span = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{name} must be a whole number {span}, got {value!r}.")
