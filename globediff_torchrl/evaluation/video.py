"""An episode as a moving picture: what the team infers, drawn over what is true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from tqdm import tqdm

from globediff_torchrl.errors import UserError, plain, unknown
from globediff_torchrl.evaluation.episode_figure import EpisodeFigure
from globediff_torchrl.evaluation.episodes import MODES
from globediff_torchrl.evaluation.inferred_episode import Episode, run_episode
from globediff_torchrl.task import Task, task_of

SUFFIXES = (".gif", ".png")


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
        value = plain(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            span = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{name} must be a whole number {span}, got {value!r}.")
