"""What a benchmark measured: rows of a CSV that later runs add to, and a table of them in Markdown."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from globediff_torchrl.files import replacing


def arguments(description: str, rounds: int, output: str) -> argparse.ArgumentParser:
    """A parser of what every benchmark takes that measures in turns: ``--rounds``, ``--output`` and ``--table-only``.

    Args:
        description: the benchmark's own documentation, shown as it is written.
        rounds, output: their defaults; ``output`` is the folder of the results.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="turns that each of those compared has")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the table of what is there")
    return parser


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows that earlier runs have left, everything as text; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]], digits: int | None = None) -> None:
    """Replaces the file at once, or leaves it as it was, and makes its folder; what a row lacks is left empty.

    Args:
        digits: significant digits of numbers with a fraction; None writes them in full.

    Raises:
        ValueError: a row has something that is no column.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows if digits is None else (_rounded(row, digits) for row in rows))


def _rounded(row: dict[str, Any], digits: int) -> dict[str, Any]:
    return {name: f"{value:.{digits}g}" if isinstance(value, float) else value for name, value in row.items()}


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """``header`` and ``lines`` as a table, one line of text each.

    Raises:
        ValueError: a line has more cells or fewer than the header.

    Example:
        >>> print(markdown_table(["engine", "ms"], [["stand-in", "2.5"]]))
        | engine | ms |
        |---|---|
        | stand-in | 2.5 |
    """
    lines = [list(line) for line in lines]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a line of the table must have {len(header)} cells, got {len(line)}: {line}")
    texts = [f"| {' | '.join(line)} |" for line in [list(header), *lines]]
    return "\n".join([texts[0], "|---" * len(header) + "|", *texts[1:]])
