"""Errors that are the user's to mend: one class, so that a command line can print them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
