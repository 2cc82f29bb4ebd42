"""Configurations: the YAML groups under configs/, composed by hydra, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from globediff_torchrl.errors import UserError, unknown

PACKAGE = Path(__file__).resolve().parent.parent


def config_dir() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside it where it was installed."""
    for folder in (PACKAGE.parent / "configs", PACKAGE / "configs"):
        if (folder / "vmas.yaml").exists():
            return folder
    raise UserError(f"configs/ was found neither beside nor inside {PACKAGE}; reinstall the package.")


def choices(group: str) -> list[str]:
    """The names that a group has, e.g. ``choices("algorithm")``."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def load_algorithm(name: str) -> DictConfig:
    """One file of ``configs/algorithm`` by itself."""
    if name not in choices("algorithm"):
        raise unknown("algorithm", name, choices("algorithm"))
    return OmegaConf.load(config_dir() / "algorithm" / f"{name}.yaml")


def compose(family: str = "vmas", overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that ``python benchmarks/<family>.py <overrides>`` would run.

    Raises:
        UserError: a group or an entry of that name does not exist.
    """
    for override in overrides:
        group, _, value = override.partition("=")
        if group in ("algorithm", "experiment", "training", "env") and value not in choices(group):
            raise unknown(group, value, choices(group))
    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return hydra.compose(config_name=family, overrides=list(overrides))
    except HydraException as error:
        raise UserError(f"the configuration does not fit: {' '.join(str(error).split())}") from error


POSITIVE = (
    "total_frames",
    "threads",
    "env.num_envs",
    "training.epochs",
    "training.minibatches",
    "training.lr",
    "training.critic_lr",
    "training.max_grad_norm",
    "evaluation.episodes",
    "evaluation.final_episodes",
    "pretrain.frames",
    "pretrain.batch_size",
    "pretrain.lr",
    "state_model_update.every_episodes",
    "state_model_update.batch_size",
    "state_model_update.buffer_size",
    "checkpoint.keep_last",
)
WHOLE = (
    "threads",
    "env.num_envs",
    "training.epochs",
    "training.minibatches",
    "evaluation.episodes",
    "evaluation.final_episodes",
    "pretrain.frames",
    "pretrain.steps",
    "pretrain.batch_size",
    "state_model_update.every_episodes",
    "state_model_update.steps",
    "state_model_update.batch_size",
    "state_model_update.buffer_size",
    "checkpoint.keep_last",
)
SHARES = ("training.gamma", "training.lmbda", "training.final_lr")
NOT_NEGATIVE = (
    "training.entropy_coeff",
    "pretrain.steps",
    "state_model_update.steps",
    "evaluation.every_frames",
    "checkpoint.every_frames",
)
CHOICES = {
    "training.update_input": ("inferred", "true"),
    "pretrain.behaviour": ("mappo", "random"),
    "logger": ("csv", "tensorboard", "wandb", "none"),
}


def validate(config: DictConfig) -> None:
    """Checks the numbers and names that hydra does not know the range of.

    Raises:
        UserError: names the entry, what it must be and what it is.
    """

    def check(name: str, fits: Any, expected: str) -> None:
        value = OmegaConf.select(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not fits(value):
            raise UserError(f"{name} must be {expected}, got {value!r}.")

    for name in POSITIVE:
        check(name, lambda value: value > 0, "a number above 0")
    for name in WHOLE:
        check(name, lambda value: float(value).is_integer(), "a whole number")
    check("training.clip_epsilon", lambda value: 0 < value < 1, "between 0 and 1, both excluded")
    for name in SHARES:
        check(name, lambda value: 0 <= value <= 1, "between 0 and 1")
    for name in NOT_NEGATIVE:
        check(name, lambda value: value >= 0, "0 or more")
    for name, known in CHOICES.items():
        value = str(OmegaConf.select(config, name)).lower()
        if value not in known:
            raise unknown(name, value, known)


def save(config: DictConfig, path: Path) -> None:
    """Writes the resolved configuration beside the results, for the resume and for the reader."""
    path.write_text(OmegaConf.to_yaml(config, resolve=True))


def as_dict(node: Any) -> dict[str, Any]:
    """A plain dictionary of a (possibly missing) section."""
    return {} if node is None else OmegaConf.to_container(node, resolve=True)


FIXED = ("env", "algorithm", "training", "seed")  # what must not change between a run and its resume


def resumed(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run in ``config.resume``, with what was overridden now and may change.

    Args:
        config: as composed now; its ``resume`` names the run.
        overrides: the entries that were given explicitly, e.g. ``["total_frames=1e6"]``.

    Raises:
        UserError: there is no run in the folder, or an override asks for another one than it holds.
    """
    path = Path(config.resume) / "config.yaml"
    if not path.exists():
        raise UserError(f"resume={config.resume} has no run in it (no config.yaml); expected the output of a run.")
    saved = OmegaConf.load(path)
    for override in overrides:
        name = override.lstrip("+").partition("=")[0]
        asked, held = OmegaConf.select(config, name), OmegaConf.select(saved, name)
        if name.split(".")[0] not in FIXED:
            OmegaConf.update(saved, name, asked, force_add=True)
        if name == "algorithm":  # the rest of the group is the run's own, whatever its file says today
            name, asked, held = "algorithm.name", asked.name, held.name
        if name.split(".")[0] in FIXED and asked != held:
            raise UserError(
                f"the run in {config.resume} has {name} = {held!r}, but {asked!r} was asked for. Leave {name} away to "
                f"go on with the run as it is, or start another run with another output."
            )
    saved.resume = config.resume
    return saved
