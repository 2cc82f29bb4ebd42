"""What benchmarks that measure have in common: their arguments, and tables in Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from globediff_torchrl.studies.statistics import bootstrap_interval


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


def mean_and_interval(values: Iterable[float | str], digits: int = 2) -> tuple[str, str]:
    """Two cells of a table: the mean over seeds, and its 95 % interval where there is more than one.

    Args:
        values: one a seed, as a number or as a CSV's text; "" of a run that lacks it.
        digits: behind the point.
    """
    values = [float(value) for value in values if value != ""]
    if not values:
        return "-", "-"
    low, high = bootstrap_interval(values)
    interval = f"{low:.{digits}f} to {high:.{digits}f}" if len(values) > 1 else "one seed"
    return f"{sum(values) / len(values):.{digits}f}", interval
