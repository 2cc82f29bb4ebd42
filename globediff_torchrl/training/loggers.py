"""TorchRL's logger of a run; on Weights & Biases it is one run, by name and settings, over all resumes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torchrl.record.loggers import Logger, WandbLogger, get_logger

from globediff_torchrl.errors import UserError
from globediff_torchrl.training.run_files import LOGS, WANDB_ID

PROJECT = "globediff_torchrl"  # on Weights & Biases, unless WANDB_PROJECT names another


def make_logger(config: DictConfig, output: Path) -> Logger | None:
    """What ``logger`` names, in ``logs`` of the run's folder; None for ``none``.

    Raises:
        UserError: its package is not installed.
    """
    if config.logger == "none":
        return None
    try:
        if config.logger != "wandb":
            return get_logger(config.logger, logger_name=str(output), experiment_name=LOGS)
        settings = _wandb_settings(config, output)
        logger = get_logger("wandb", str(output / LOGS), _run_name(config), wandb_kwargs=settings)
        logger.log_hparams(OmegaConf.to_container(config, resolve=True))
        return logger
    except ImportError as error:
        raise UserError(
            f"logger={config.logger} needs a package that is not installed ({error}): "
            f"pip install 'globediff_torchrl[{config.logger}]'."
        ) from error


def _run_name(config: DictConfig) -> str:
    return f"{config.env.scenario}-{config.algorithm.name}-seed{config.seed}"


def _wandb_settings(config: DictConfig, output: Path) -> dict[str, Any]:
    """What ``wandb.init`` gets: seeds of one task and algorithm form a group, and a resumed run is the one before."""
    known = output / WANDB_ID
    resumed = config.resume is not None and known.is_file()
    return {
        "id": known.read_text(encoding="utf-8") if resumed else uuid.uuid4().hex[:8],
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "group": f"{config.env.family}/{config.env.scenario}/{config.algorithm.name}",
        "reinit": "create_new",  # or all runs of a sweep in one process would be the first one
    }


def remember(logger: Logger | None, output: Path) -> None:
    """Notes the run on Weights & Biases for a resume; called where nothing can fail any more."""
    if isinstance(logger, WandbLogger):
        (output / WANDB_ID).write_text(logger.id, encoding="utf-8")


def finish(logger: Logger | None) -> None:
    """Ends a run on Weights & Biases, which else goes on until the process ends."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
