"""Errors that are the user's to mend: one class, so that a command line can print them without a traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

LARGEST_SEED = 2**32 - 1  # numpy's; jax takes a larger one for the rest of its division by 2**32


class UserError(ValueError):
    """Something was asked for that cannot be given; the message says what was expected, what came, and the fix."""


def unknown(kind: str, name: object, known: Iterable[object]) -> UserError:
    """The error for a name that is not among the known ones; lists them and guesses what was meant.

    Args:
        kind: what the name stands for, in singular, e.g. ``"environment"``.
        name: what was given.
        known: what could have been given.

    Example:
        >>> raise unknown("algorithm", "globdiff", ["globediff", "mappo"])
        UserError: Unknown algorithm 'globdiff': did you mean 'globediff'? Known: globediff, mappo.
    """
    names = [str(candidate) for candidate in known]
    close = difflib.get_close_matches(str(name), names, n=1)
    guess = f": did you mean {close[0]!r}?" if close else "."
    return UserError(f"Unknown {kind} {str(name)!r}{guess} Known: {', '.join(names) or 'none'}.")


class TrainingError(UserError):
    """A run that cannot go on: a loss or an observation that is no number. What was computed before is on disk."""


@contextmanager
def ends_program() -> Iterator[None]:
    """Around a command line, or as its decorator: a mistake of the user's ends it with one line and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def kind_of(value: Any) -> str:
    """What a value is that was given for a name, for error messages."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of {type(value).__name__}"


def check_device(name: Any) -> torch.device:
    """The device of that name.

    Raises:
        UserError: torch knows no such device, or sees none here; a Mac's, which has no float64.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"device must be one that torch knows, such as cpu or cuda:0, got {name!r}: pass device=cpu."
        ) from error
    if device.type == "mps":
        raise UserError(
            f"device={name} has no float64, which running statistics are summed in; expected cpu or cuda: pass "
            "device=cpu."
        )
    seen = {"cpu": 1, "cuda": torch.cuda.device_count()}
    if (device.index or 0) >= seen.get(device.type, 0):
        raise UserError(
            f"device={name} asks for a device that is not here; expected one of those that this torch sees "
            f"({', '.join(f'{count} {kind}' for kind, count in seen.items())}): pass device=cpu."
        )
    return device


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which files and random streams take; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def check_count(name: str, value: Any, instead: str) -> int:
    """The value as an int; refuses what is no whole number above 0. ``instead`` is the fix that the message offers."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number above 0, got {value!r}: {instead}.")
    return value


def check_sizes(name: str, value: Any) -> None:
    """Refuses what is no sequence of whole numbers above 0."""
    sizes = list(map(plain, value)) if isinstance(value, Iterable) and not isinstance(value, str) else [None]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise UserError(f"{name} must be a list of whole numbers above 0, got {value!r}: pass e.g. (64, 64).")


def check_seed(seed: Any) -> int | None:
    """The seed as an int, or None; refuses what is neither None nor a whole number that every simulator takes."""
    seed = plain(seed)
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if seed is not None and not (whole and 0 <= seed <= LARGEST_SEED):
        raise UserError(
            f"seed must be a whole number from 0 to {LARGEST_SEED}, or None, got {seed!r}: pass e.g. seed=0."
        )
    return seed
