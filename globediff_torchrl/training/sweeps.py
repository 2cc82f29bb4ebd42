"""Sweeps (``-m a=1,2``): every combination is looked at before the first one runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from globediff_torchrl.errors import UserError
from globediff_torchrl.training import config as configuration


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep, in the order in which hydra runs them.

    Raises:
        UserError: hydra cannot read one of them, or its own sweeper cannot run it.
    """
    with hydra.initialize_config_dir(str(configuration.config_dir()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        try:
            return BasicSweeper.split_arguments(parser.parse_overrides(list(overrides)), max_batch_size=None)[0]
        except HydraException as error:
            raise UserError(f"the sweep does not fit: {' '.join(str(error).split())}") from error


def check_sweep(
    family: str, overrides: Sequence[str], settle: Callable[[DictConfig, Sequence[str]], DictConfig]
) -> None:
    """Refuses a sweep in which one combination has a mistake, or two would write into the same folder.

    Args:
        family: name of the main configuration.
        overrides: as on the command line, values separated by commas, ranges and choices included.
        settle: gives the configuration that would be run; raises where there is a mistake in it.
    """
    runs: dict[str, list[str]] = {}
    all_of_them = combinations(overrides)
    for combination in all_of_them:
        config = settle(configuration.compose(family, combination), combination)
        folder = _folder(config)
        if folder in runs:
            raise _clash(config, runs[folder], combination, all_of_them)
        if folder is not None:
            runs[folder] = combination


def _folder(config: DictConfig) -> str | None:
    """Where a run would write; None where only hydra knows it, in the run itself."""
    if config.resume is None and "${hydra:" in str(configuration.as_written(config, "output")):
        return None
    return os.path.realpath(configuration.output_of(config))


def _clash(config: DictConfig, one: list[str], two: list[str], all_of_them: list[list[str]]) -> UserError:
    first, second = (" ".join(a for a, b in zip(*pair) if a != b) for pair in ((one, two), (two, one)))
    folder = configuration.output_of(config)
    if not first:
        return UserError(f"the sweep has {' '.join(one)} twice, expected each combination once: leave one away.")
    said = f"{first} and {second} would both write into {folder}, and one result would be lost; expected a folder of "
    if config.resume is not None:
        return UserError(f"{said}its own for each. A resumed run has one: sweep over resume alone.")
    swept = [run[0].partition("=")[0] for run in zip(*all_of_them) if len(set(run)) > 1]
    labels = "/".join(_label(key) for key in swept if key != "output")
    return UserError(f"{said}its own for each: pass 'output=runs/{labels}'.")


def _label(key: str) -> str:
    """A part of a path that differs with the entry."""
    key = key.lstrip("+")
    if key == "algorithm":
        return "${algorithm.name}"
    if key in ("experiment", "training", "env"):
        return f"${{hydra:runtime.choices.{key}}}"
    return f"{key.rpartition('.')[2]}${{{key}}}"
