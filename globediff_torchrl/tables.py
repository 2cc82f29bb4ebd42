"""Tables on disk: the rows of a CSV, replaced as a whole and read back as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from globediff_torchrl.files import replacing


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows that earlier runs have left, everything as text; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]], digits: int | None = None) -> None:
    """Replaces the file at once, or leaves it as it was, and makes its folder; what a row lacks is left empty.

    Args:
        digits: significant digits of numbers with a fraction; None writes them in full.

    Raises:
        ValueError: a row has something that is no column.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows if digits is None else (_rounded(row, digits) for row in rows))


def _rounded(row: dict[str, Any], digits: int) -> dict[str, Any]:
    return {name: f"{value:.{digits}g}" if isinstance(value, float) else value for name, value in row.items()}
