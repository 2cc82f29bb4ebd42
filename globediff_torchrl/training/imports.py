"""Modules of the user's own, whose import registers scenarios and state models."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from omegaconf import ListConfig

from globediff_torchrl.errors import UserError


def import_modules(names: Any) -> None:
    """Imports what the entry ``imports`` of a configuration names; the current folder is looked in last.

    Args:
        names: e.g. ``["my_worlds"]``.

    Raises:
        UserError: no list of names, no such module, or one that fails as it is imported.
    """
    if not isinstance(names, (list, tuple, ListConfig)) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"imports must be a list of names of modules, got {names!r}: pass e.g. imports=[my_worlds].")
    here = os.getcwd()
    if names and not {"", here} & set(sys.path):
        sys.path.append(here)  # last: a file of one's own hides no package
    importlib.invalidate_caches()
    for name in names:
        _import(name, here)


def _import(name: str, here: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # anything may go wrong in it
        if isinstance(error, ModuleNotFoundError) and name.endswith(".py"):
            raise UserError(
                f"imports names {name!r}, expected a module's name, as import takes it: write "
                f"{name.removesuffix('.py').replace('/', '.')}."
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise UserError(
                f"imports names {name!r}, but there is no such module; expected {name.replace('.', '/')}.py in the "
                f"current folder ({here}), or an installed package: start from the folder that holds it."
            ) from error
        raise UserError(
            f"imports names {name!r}, which was expected to import without an error, and fails with "
            f"{type(error).__name__}: {' '.join(str(error).split())}. Mend it, or leave it away from imports."
        ) from error
