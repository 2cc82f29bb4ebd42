"""One way to get something wrong, and what must be said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Misuse:
    """``do``: entries on the command line, or a call; ``says``: what was expected, what came, the fix."""

    name: str
    do: tuple[str, ...] | Callable[[Path], object]
    says: tuple[str, str, str]
    before: Callable[[Path], object] | None = None


def case(misuse: Misuse) -> object:
    return pytest.param(misuse, id=misuse.name.strip().replace("{here}/", ""))
