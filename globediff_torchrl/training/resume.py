"""The configuration of a run that is there: read from its folder, and with what may change when it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from globediff_torchrl.envs.families import GUARD
from globediff_torchrl.errors import UserError
from globediff_torchrl.training.config import choices, config_dir, folder_of, literal, main_config
from globediff_torchrl.training.entries import base_entries
from globediff_torchrl.training.run_files import CHECKPOINTS, CONFIG

FIXED = ("env", "algorithm", "training", "seed")  # what must not change between a run and its resume
# but for how long a simulator is waited for and how often it is replaced: a run that ended on its timeouts goes on
PATIENCE = (*GUARD, "engine_timeout")  # with a slow or a crashing engine: none of the run's results depends on it
FREE = tuple(f"env.{name}" for name in PATIENCE)
PRETRAINING = "pretrain"  # fixed from the first checkpoint on: nothing would read another one


def load_run(run: str | Path) -> DictConfig:
    """The configuration of the run in a folder; what ``base.yaml`` has and an older run had not is as it stands there.

    Raises:
        UserError: there is no run in the folder, or its configuration cannot be read.
    """
    path = Path(run) / CONFIG
    if not path.exists():
        raise UserError(f"{run} has no run in it (no {CONFIG}); expected the output folder of a run.")
    try:
        saved = OmegaConf.load(path)
        OmegaConf.to_container(saved, resolve=True)  # raises where an entry refers to what is not there
        if "env" not in saved:
            raise ValueError("it has no env")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{path} cannot be read ({' '.join(str(error).split())}); expected the configuration as the run wrote it: "
            f"was it edited? Bring it back, or start another run with another output."
        ) from error
    return OmegaConf.merge(base_entries(config_dir()), saved)


def env_of(run: str | Path) -> str:
    """The environment of an earlier run; the default one where it cannot be read, which :func:`resumed` says."""
    try:
        env = load_run(run).env
        family, scenario = env.family, env.scenario
    except (UserError, AttributeError, OmegaConfBaseException):
        return "vmas/hunt"
    return f"{family}/{scenario}" if main_config(family) in choices("env") else "vmas/hunt"


def resumed(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run in ``config.resume``, with what was overridden now and may change.

    Args:
        config: as composed now; its ``resume`` names the run.
        overrides: the entries that were given explicitly, e.g. ``["total_frames=1e6"]``.

    Raises:
        UserError: there is no run in the folder, or an override asks for another one than it holds; of ``pretrain``
            only once there is a checkpoint, that is, once the pretraining is over.
    """
    folder = folder_of(config, "resume")
    if not (folder / CONFIG).exists():
        raise UserError(
            f"resume={config.resume} has no run in it (no {CONFIG}); expected the output folder of a run. Leave resume "
            f"away to start one there: output={config.resume}."
        )
    saved = load_run(folder)
    done = next((folder / CHECKPOINTS).glob("checkpoint-*"), None)
    fixed = FIXED if done is None else (*FIXED, PRETRAINING)
    for override in overrides:
        name = override.lstrip("+").partition("=")[0]
        if name.startswith("hydra."):  # hydra's own, of where and how it runs
            continue
        if name.lstrip("~") in CHECKS:
            CHECKS[name.lstrip("~")](config, saved)
            continue
        asked, held = OmegaConf.select(config, name), OmegaConf.select(saved, name)
        if name.split(".")[0] not in fixed or name in FREE:
            OmegaConf.update(saved, name, literal(asked), force_add=True)
            continue
        if name == "algorithm":  # the rest of the group is the run's own, whatever its file says today
            name, asked, held = "algorithm.name", asked.name, held.name
        if asked != held:
            over = " and its pretraining is over" if name.split(".")[0] == PRETRAINING else ""
            raise UserError(
                f"the run in {config.resume} has {name} = {held!r}{over}, but {asked!r} was asked for. Leave {name} "
                f"away to go on with the run as it is, or start another run with another output."
            )
    saved.resume = literal(config.resume)
    return saved


def _check_experiment(config: DictConfig, saved: DictConfig) -> None:
    """Refuses another ``experiment`` beside ``resume``: none of its entries would be taken."""
    asked, held = config.experiment, saved.experiment
    if asked != held:
        own = "which is of no experiment" if held is None else f"that of experiment={held}"
        raise UserError(
            f"resume={config.resume} goes on with the run's own configuration, {own}, but experiment={asked} was asked "
            f"for. Leave experiment away and give the entries that are to change themselves, e.g. total_frames=..., or "
            f"start another run with another output."
        )


def _check_own_folder(config: DictConfig, saved: DictConfig) -> None:
    """Refuses another ``output`` beside ``resume``: the run goes on where its checkpoints are."""
    if folder_of(config, "output").resolve() != folder_of(config, "resume").resolve():
        raise UserError(
            f"resume={config.resume} goes on in the run's own folder, where no other output is expected, got "
            f"output={config.output}. Leave output away, or copy the folder there and resume the copy."
        )


CHECKS = {"experiment": _check_experiment, "output": _check_own_folder}  # of what may stand beside resume, and how
