"""What only the environment's task can tell of a configuration, looked at before anything is trained or moved."""

from __future__ import annotations

from omegaconf import DictConfig
from tqdm import tqdm

from globediff_torchrl.errors import UserError
from globediff_torchrl.evaluation.video import check_drawable
from globediff_torchrl.state_models import STATE_MODELS
from globediff_torchrl.task import Task


def check_task(config: DictConfig, task: Task) -> None:
    """Refuses what the task cannot give; where it alone has no returns to show, a line says so.

    Raises:
        UserError: a video of a state without positions; online updates that wait for episodes, none of which ends.
    """
    if config.video:
        check_drawable(task)
    if task.max_steps is not None or task.ends_early:
        return
    model, update = config.algorithm.state_model, config.state_model_update
    if config.resume is None and model is not None and STATE_MODELS[model.name].is_trained() and update.steps > 0:
        raise UserError(
            f"{task.name} ends no episode by itself, so that a time limit is expected, got env.max_steps=null: the "
            "online update of the state model counts finished episodes and would never come. Leave env.max_steps away, "
            "or set state_model_update.steps=0."
        )
    tqdm.write(f"{task.name} ends no episode by itself, and env.max_steps is null: no row will have a return.")
