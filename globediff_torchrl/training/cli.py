"""What the benchmark scripts share: from the command line to a finished run, with one clear line for a mistake."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from tqdm import tqdm

from globediff_torchrl.envs.smac import install as smac_install
from globediff_torchrl.envs.smac.maps import smac_map
from globediff_torchrl.envs.smax import jax_setup
from globediff_torchrl.errors import UserError, ends_program
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.factory import settle, trainer_from_config
from globediff_torchrl.training.sweeps import check_sweep, combinations
from globediff_torchrl.training.trainer import announce

ASKS_ONLY = {"-h", "--help", "--hydra-help", "-c", "--cfg", "--info", "-i"}  # hydra answers, and nothing is run
MULTIRUN = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
LIGHT = "python benchmarks/smax.py env.map=smacv2_5_units or python benchmarks/vmas.py"


@ends_program()
def check_arguments(family: str, arguments: list[str]) -> None:
    """Ends the program with exit code 2 where the command line has a mistake in it; hydra would end it with 1.

    Of a sweep (``-m a=1,2``) every combination is looked at, but where another sweeper than hydra's own chooses them.
    Options in the middle of the entries, which hydra's parser cannot read, are moved to the front of ``sys.argv``.

    Args:
        family: name of the main configuration.
        arguments: ``sys.argv[1:]``.
    """
    options, overrides = _parted(arguments)
    if sys.argv[1:] == arguments:
        sys.argv[1:] = [*options, *overrides]
    own = [override for override in overrides if not override.startswith("hydra")] + _searched(options, overrides)
    swept = bool(MULTIRUN & set(arguments))
    if swept and any(override.startswith("hydra/sweeper=") for override in overrides):
        return
    if swept and not ASKS_ONLY & set(arguments):
        check_sweep(family, own, partial(_settled, family))
        return
    config = configuration.compose(family, combinations(own)[0] if swept else own)
    if not ASKS_ONLY & set(arguments):
        _check_installed(family, config)


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options with their values, and the entries."""
    options, overrides = [], []
    for argument, before in zip(arguments, ["", *arguments]):
        takes_it = before.startswith("-") and before not in MULTIRUN and "=" not in argument
        (options if argument.startswith("-") or takes_it else overrides).append(argument)
    return options, overrides


def _searched(options: list[str], overrides: list[str]) -> list[str]:
    """Hydra's ``--config-dir conf`` as the entry that names such folders, with those that are named so already."""
    option = get_args_parser().parse_known_args(options)[0].config_dir
    folders = [*map(str, configuration.own_folders(overrides)), *([] if option is None else [option])]
    return [f"{configuration.SEARCHED}=[{','.join(map(repr, folders))}]"] if folders else []


def _settled(family: str, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    config = settle(config, overrides)
    _check_installed(family, config)
    return config


def _check_installed(family: str, config: DictConfig) -> None:
    """Raises UserError where the simulator of the family is not here; imports nothing of it."""
    if family == "smax":
        jax_setup.check_installed()
    if family == "smac":
        file = None if config.resume is not None else smac_map(str(config.env.map)).file  # a resumed run has its own
        try:
            smac_install.check_installed(file)
        except UserError as error:
            raise UserError(f"{error} On the command line: {LIGHT}.") from error


@ends_program()
def run(config: DictConfig) -> None:
    """Trains what ``config`` describes; a mistake of the user's ends the program with one line and exit code 2.

    A signal that ends it at once gives 128 + its number, as in a shell; in a sweep also one that ends it behind an
    iteration, or the next run would begin.
    """
    tqdm.set_lock(threading.RLock())  # its default holds a semaphore, which a killed process leaves behind
    trainer = None
    try:
        trainer = trainer_from_config(config, HydraConfig.get().overrides.task)
        announce(trainer)
        trainer.train()
        if trainer.stopped_by is not None and HydraConfig.get().mode is RunMode.MULTIRUN:
            print(f"the sweep ends here; resume={trainer.output} goes on with this run.", file=sys.stderr)
            sys.exit(128 + trainer.stopped_by)
    except KeyboardInterrupt as error:
        if trainer is not None:
            print(f"stopped at once by {error or 'Ctrl-C'}; resume={trainer.output} goes on.", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))
