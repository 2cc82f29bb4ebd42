"""Configurations: the YAML groups under configs/, composed by hydra, checked before anything is built."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from globediff_torchrl.envs.smac.maps import is_generated
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.files import replacing
from globediff_torchrl.state_models.presets import PRESETS
from globediff_torchrl.training import entries

PACKAGE = Path(__file__).resolve().parent.parent
MAIN = {"smacv2": "smac"}  # families that share another one's configuration
SEARCHED = "hydra.searchpath"  # hydra's entry for folders beside configs/
NAMED_MAP = ("smax", "smac")  # main configurations in which the scenario is called map
# how hydra says that there is no entry of a name; what it advises instead makes one that nothing reads
NO_ENTRY = re.compile(r"(?:Could not override|delete from config\.|but config group) '([^']+)'")


def smac_family(name: str) -> str:
    """The family of StarCraft's map of that name: ``"smacv2"`` for the generated ones, else ``"smac"``."""
    return "smacv2" if is_generated(str(name)) else "smac"


def script_width(preset: str | None, denoiser: str | None) -> int | None:
    """The width that GlobeDiff's file gives a denoiser; None for the preset's own.

    128 is the light environments' width of a plain or gated network. A U-Net's counts channels, which double at each
    level: it gets the paper's.
    """
    if preset == "paper":
        return None
    return PRESETS["paper"]["width"] if denoiser == "unet" else 128


def sweep_notes() -> str:
    """Where hydra notes what a sweep is of: no folder of the user's, as it would be made wherever the sweep starts."""
    user = os.getuid() if hasattr(os, "getuid") else "sweeps"  # Windows gives each user a folder of their own
    return str(Path(tempfile.gettempdir()) / f"globediff_torchrl-{user}")


OmegaConf.register_new_resolver("smac_family", smac_family, replace=True)
OmegaConf.register_new_resolver("script_width", script_width, replace=True)
OmegaConf.register_new_resolver("sweep_notes", sweep_notes, replace=True)


def config_dir() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside it where it was installed."""
    for folder in (PACKAGE.parent / "configs", PACKAGE / "configs"):
        if (folder / "vmas.yaml").exists():
            return folder
    raise UserError(f"configs/ was found neither beside nor inside {PACKAGE}; reinstall the package.")


def main_config(family: str) -> str:
    """The main configuration of a family of environments, which is also the name of its file in ``configs/env``."""
    return MAIN.get(family, family)


def scenario_entry(family: str) -> str:
    """The entry that names the scenario of a family's environment."""
    return "env.map" if main_config(family) in NAMED_MAP else "env.scenario"


def own_folders(overrides: Sequence[str]) -> list[Path]:
    """The folders of a user's own beside ``configs/``, which hydra's entry ``hydra.searchpath=[conf]`` names.

    Raises:
        UserError: one of them is not there; hydra would go on without it.
    """
    given = [override for override in overrides if override.startswith(f"{SEARCHED}=")]
    try:
        lists = [OmegaConf.from_dotlist([override]).hydra.searchpath for override in given]
    except YAMLError:
        return []  # hydra says what it cannot read, and which list it wants
    named = [str(name) for names in lists if OmegaConf.is_list(names) for name in names]
    folders = [Path(name.removeprefix("file://")) for name in named if not name.startswith("pkg://")]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"{SEARCHED} or --config-dir names {str(folder)!r}, expected a folder with files such as "
                "algorithm/mine.yaml in it: is the path right, seen from the current folder?"
            )
    return folders


def choices(group: str, own: Sequence[Path] = ()) -> list[str]:
    """The names that a group has, e.g. ``choices("algorithm")``; ``own`` folders are looked in, too."""
    return sorted({path.stem for folder in (config_dir(), *own) for path in (folder / group).glob("*.yaml")})


def experiments(family: str, own: Sequence[Path] = ()) -> list[str]:
    """The experiments that a family's main configuration takes: all but those that begin with another one's name."""
    others = tuple(f"{other}_" for other in choices("env") if other != main_config(family))
    return [name for name in choices("experiment", own) if not name.startswith(others)]


def load_algorithm(name: str) -> DictConfig:
    """One file of ``configs/algorithm`` by itself, without what it sets outside ``algorithm``."""
    if name not in choices("algorithm"):
        raise unknown("algorithm", name, choices("algorithm"))
    file = OmegaConf.load(config_dir() / "algorithm" / f"{name}.yaml")
    return file.get("algorithm", file)


def compose(family: str = "vmas", overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that ``python benchmarks/<family>.py <overrides>`` would run; smacv2's is that of smac.

    Raises:
        UserError: a group or an entry of that name does not exist, or a folder of one's own.
    """
    own = own_folders(overrides)
    for override in overrides:
        group, equals, value = override.partition("=")
        if not equals and not override.startswith("~"):
            raise UserError(f"{override!r} does not fit: an entry is expected as name=value, e.g. seed=1; see --help.")
        if group in entries.GROUPS:
            _check_choice(family, group, value, own)
    try:
        config = _composed(family, overrides)
    except HydraException as error:
        said = " ".join(str(error).split())
        found = NO_ENTRY.search(said)
        if found is None:
            raise UserError(f"the configuration does not fit: {said}") from error
        chosen = [override for override in overrides if override.partition("=")[0] in (*entries.GROUPS, SEARCHED)]
        known = OmegaConf.to_container(_composed(family, chosen), resolve=False)
        raise entries.unknown_entry(found[1], known) from error
    check_entries(config)
    return config


def _composed(family: str, overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name=main_config(family), overrides=list(overrides))


def check_entries(config: DictConfig) -> None:
    """Refuses an entry that no file of ``configs/`` has, but for arguments of simulators and state models.

    Raises:
        UserError: names the entry and those that there are.
    """
    family = main_config(str(config.env.family))
    if family not in choices("env"):
        raise unknown("environment family", family, choices("env"))
    entries.check_entries(config, entries.known_entries(config_dir(), family))


def _check_choice(family: str, group: str, name: str, own: Sequence[Path]) -> None:
    fit = {"experiment": experiments(family, own), "env": [main_config(family)]}  # the others' settings would not
    known = fit.get(group, choices(group, own))
    if name in choices(group, own) and name not in known:
        runs = f" {group}={name}" if group == "experiment" else ""
        raise UserError(
            f"{group}={name} is another family's, expected one of {main_config(family)}: {', '.join(known)}. "
            f"python benchmarks/{name.partition('_')[0]}.py{runs} runs it."
        )
    if name not in known:
        raise unknown(group, name, known)


def literal(value: Any) -> Any:
    """A string so that it stands for itself in a configuration, also where there is a ``${`` in it."""
    return value.replace("${", "\\${") if isinstance(value, str) else value


def as_written(section: DictConfig, name: str) -> Any:
    """An entry with its references as they are written, ``runs/${seed}``."""
    return OmegaConf.to_container(section, resolve=False)[name]


def save(config: DictConfig, path: Path) -> None:
    """Writes the resolved configuration beside the results, for the resume and for the reader."""
    with replacing(path) as part:
        part.write_text(literal(OmegaConf.to_yaml(config, resolve=True)), encoding="utf-8")


def folder_of(config: DictConfig, name: str) -> Path:
    """The folder that an entry of the configuration names.

    Raises:
        UserError: it names none, or refers to an entry that is not there.
    """
    try:
        value = config[name]
    except OmegaConfBaseException as error:
        raise UserError(
            f"{name}={as_written(config, name)} refers to what is not there "
            f"({' '.join(str(error).split())}); expected entries of the configuration, as in "
            "output=runs/lr${training.lr}."
        ) from error
    if value is None or isinstance(value, bool) or OmegaConf.is_config(value) or not str(value).strip():
        raise UserError(f"{name} must be a folder, got {value!r}: pass e.g. {name}=runs/first.")
    return Path(str(value))


def output_of(config: DictConfig) -> Path:
    """The folder that a run of this configuration writes into.

    Raises:
        UserError: see :func:`folder_of`.
    """
    return folder_of(config, "output" if config.resume is None else "resume")


def as_dict(node: Any) -> dict[str, Any]:
    """A plain dictionary of a (possibly missing) section."""
    return {} if node is None else OmegaConf.to_container(node, resolve=True)
