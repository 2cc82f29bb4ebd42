"""Which entries a configuration can have, so that a mistyped one is refused and not passed over."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from globediff_torchrl.errors import UserError, unknown

GROUPS = ("algorithm", "experiment", "training", "env")
# sections with entries that no file lists, as they belong to code of anybody's; whoever takes them refuses unknown ones
OPEN = {
    "env.kwargs": "an argument of the simulator",
    "algorithm.state_model": "an argument of a state model that the algorithm's file does not list",
    "training.actor": "an argument of make_actor that no file lists",
    "training.critic": "an argument of make_critic that no file lists",
}

ELSEWHERE = ("seed", "device")  # arguments of a simulator's too, but the root's entries


@cache
def known_entries(folder: Path, env: str) -> dict[str, Any]:
    """The entries of ``base.yaml`` and of the groups; of the environments' files the one named ``env``."""
    base = base_entries(folder)
    for group in ("algorithm", "training"):
        base[group] = {}
        for file in sorted((folder / group).glob("*.yaml")):
            entries = _plain(file)
            entries.pop("defaults", None)
            entries = entries.get(group, entries)  # some begin at the root
            for name, value in entries.items():
                if value is not None or name not in base[group]:
                    base[group][name] = value
    return {**base, "env": _plain(folder / "env" / f"{env}.yaml")}


def base_entries(folder: Path) -> dict[str, Any]:
    """The entries of ``base.yaml`` with their defaults; those that hydra reads itself are none of ours."""
    base = _plain(folder / "base.yaml")
    del base["hydra"]
    return base


def _plain(file: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)


def check_entries(config: DictConfig, known: Mapping[str, Any]) -> None:
    """Refuses an entry that is in no file, where everything else would pass over it.

    Raises:
        UserError: names the entry and those that there are.
    """
    found = OmegaConf.to_container(config, resolve=False)
    for name in _strangers(found, known):
        raise unknown_entry(name, known)


def _strangers(found: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in found.items():
        path = f"{prefix}{name}"
        if path in OPEN or path == "hydra":
            continue
        if name not in known:
            yield path
        elif isinstance(value, Mapping) and isinstance(known[name], Mapping):
            yield from _strangers(value, known[name], f"{path}.")


def unknown_entry(name: str, known: Mapping[str, Any]) -> UserError:
    """The error for an entry that is not there: what it may have meant, then the entries beside it.

    Args:
        name: dotted, e.g. ``"training.lrr"``.
        known: the entries that there are, section within section.
    """
    paths = list(_paths(known))
    if name in paths:
        return UserError(
            f"{name} has no entries of the names that were given: expected {', '.join(_siblings(f'{name}.', known))}. "
            f"Set them one by one: {next(iter(_siblings(f'{name}.', known)))}=..."
        )
    section = next((section for section in OPEN if name.startswith(f"{section}.")), None)
    last = name.rpartition(".")[2]
    if section == "env.kwargs" and own_entry(last, known["env"]):
        return not_an_argument(last, known["env"])
    if section is not None:
        return _not_listed(name, section, known)
    meant = difflib.get_close_matches(name, paths, n=1)
    meant += [path for path in paths if path.rpartition(".")[2] == last and path not in meant]
    error = unknown("entry", name, dict.fromkeys([*meant, *_siblings(name, known)]))
    if name.startswith("env.") and not own_entry(last, known["env"]):
        return UserError(f"{error} {OPEN['env.kwargs'].capitalize()} stands in env.kwargs: +env.kwargs.{last}=...")
    return error


def own_entry(argument: str, env: Container[str]) -> str | None:
    """The entry of its own that an argument of the simulator has, beside which ``env.kwargs`` would not be read.

    Args:
        env: the entries of ``env``.
    """
    if argument in ELSEWHERE:
        return argument
    return f"env.{argument}" if argument in env and argument != "kwargs" else None


def not_an_argument(name: str, env: Container[str]) -> UserError:
    """The error for an argument under ``env.kwargs`` that has an entry of its own."""
    return UserError(
        f"env.kwargs is expected to hold arguments of the simulator that have no entry of their own, got {name}: set "
        f"{own_entry(name, env)}=... in place of env.kwargs.{name}."
    )


def _not_listed(name: str, section: str, known: Mapping[str, Any]) -> UserError:
    """The error for an entry of an open section: it may be meant, and then needs a plus."""
    listed = _siblings(name, known)
    if listed and listed[0].startswith(section):
        return UserError(f"{unknown('entry', name, listed)} {OPEN[section].capitalize()} needs a plus: +{name}=...")
    if section == "algorithm.state_model":
        return UserError(
            f"{name} is an argument of a state model, but algorithm={known['algorithm'].get('name')} has none; "
            f"expected one that has: choose algorithm=globediff, or leave {name} away."
        )
    return UserError(f"{name} is in no file; expected {OPEN[section]} with a plus before it: +{name}=...")


def _siblings(name: str, known: Mapping[str, Any]) -> list[str]:
    """The entries of the innermost section that ``name`` is in, as far as there is one."""
    section, prefix = known, ""
    for part in name.split(".")[:-1]:
        if not isinstance(section.get(part), Mapping):
            return list(known)
        section, prefix = section[part], f"{prefix}{part}."
    return [f"{prefix}{entry}" for entry in section]


def _paths(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
