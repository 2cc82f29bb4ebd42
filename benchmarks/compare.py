"""The runs of a study compared: each algorithm's mean and interval, and its difference from one of them seed by seed.

    python benchmarks/compare.py runs/bracket/runs.csv --against mappo
    python benchmarks/compare.py docs/data/smax-more-runs.csv --where "study=a step of pairs" --measure success_last

Reads what ``benchmarks/bracket.py`` writes, and the tables of ``docs/data``; where one holds runs of several codes,
``--where`` chooses. What the labels of all algorithms end with is left away. The differences are over the seeds that
both have. What a seed decides, such as the worlds and the first weights, is the same in both runs and falls out of
them.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.pop(0)  # this script's folder: names in it would hide packages

from globediff_torchrl.errors import UserError, ends_program, unknown
from globediff_torchrl.studies.labels import shared_suffix
from globediff_torchrl.studies.measurements import markdown_table, mean_and_interval
from globediff_torchrl.studies.statistics import paired_difference
from globediff_torchrl.tables import read_rows

HEADER = ("environment", "algorithm", "seeds", "mean", "95% interval")


def check_column(path: Path, rows: list[dict], name: str) -> None:
    if name not in rows[0]:
        raise unknown(f"column of {path}", name, rows[0])


def check_measure(path: Path, rows: list[dict], name: str) -> None:
    check_column(path, rows, name)
    measures = [column for column in rows[0] if are_numbers([row[column] for row in rows])]
    if name not in measures:
        raise UserError(
            f"--measure must be a column of {path} in which these rows have numbers, got {name}: pass one of "
            f"{', '.join(measures)}."
        )


def are_numbers(texts: list[str]) -> bool:
    """Whether there are numbers in a column, and nothing else; a run may lack one."""
    try:
        return bool([float(text) for text in texts if text])
    except ValueError:
        return False


def chosen(path: Path, conditions: list[str], seeds: list[int] | None) -> list[dict]:
    """The rows of the table of these seeds in which each ``column=value`` holds.

    Raises:
        UserError: there is no table, or no such column or row in it.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} is expected to hold a row for each run, got none: pass a runs.csv of bracket.py.")
    for condition in conditions:
        column, _, value = condition.partition("=")
        check_column(path, rows, column)
        known = {row[column]: None for row in rows}
        if value not in known:
            raise unknown(column, value, known)
        rows = [row for row in rows if row[column] == value]
    known = {int(row["seed"]): None for row in rows}
    for seed in seeds or ():
        if seed not in known:
            raise unknown("seed", seed, known)
    return [row for row in rows if not seeds or int(row["seed"]) in seeds]


def by_seed(rows: list[dict], measure: str) -> dict[tuple[str, str], dict[int, float]]:
    """The measured value of each seed, by environment and algorithm; runs without one are left out.

    Raises:
        UserError: there are two rows of one run.
    """
    found, seen = defaultdict(dict), set()
    for row in sorted(rows, key=lambda row: int(row["seed"])):  # as bracket.py resamples them
        run = row["env"], row["algorithm"], int(row["seed"])
        if run in seen:
            raise UserError(
                "The rows are expected to be of one study, got two of {1} on {0} with seed {2}: choose with "
                '--where "column=value".'.format(*run)
            )
        seen.add(run)
        if row[measure]:
            found[run[:2]][run[2]] = float(row[measure])
    return found


def lines(values: dict[tuple[str, str], dict[int, float]], against: str | None, digits: int) -> list[list[str]]:
    """One line for each environment and algorithm, the highest mean of an environment first."""
    mean = {key: sum(of.values()) / len(of) for key, of in values.items()}
    envs = list(dict.fromkeys(env for env, _ in values))
    table = []
    for env, algorithm in sorted(values, key=lambda key: (envs.index(key[0]), -mean[key])):
        of, baseline = values[env, algorithm], values.get((env, against), {})
        cells = [env, algorithm, str(len(of)), *mean_and_interval(of.values(), digits)]
        if against is not None:
            both = sorted(of.keys() & baseline.keys()) if algorithm != against else []
            difference, error = paired_difference([of[s] for s in both], [baseline[s] for s in both])
            ahead = sum(of[seed] > baseline[seed] for seed in both)
            cells += [f"{difference:+.{digits}f}", f"{error:.{digits}f}", f"{ahead} of {len(both)}"] if both else "---"
        table.append(cells)
    return table


@ends_program()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="a CSV with a row for each run")
    parser.add_argument("--measure", default="return_last", help="the column that is compared")
    parser.add_argument("--against", help="the algorithm from which the others differ")
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="the rows that are compared")
    parser.add_argument("--seeds", nargs="+", type=int, help="these alone")
    parser.add_argument("--digits", type=int, default=3, help="behind the point")
    arguments = parser.parse_args()
    rows = chosen(arguments.table, arguments.where, arguments.seeds)
    check_measure(arguments.table, rows, arguments.measure)
    suffix = shared_suffix(row["algorithm"] for row in rows)
    short = {row["algorithm"]: row["algorithm"].removesuffix(suffix) for row in rows}
    against = short.get(arguments.against, arguments.against)
    header = [*HEADER]
    if against is not None:
        if against not in short.values():
            raise unknown("algorithm", against, short.values())
        header += [f"less or more than {against}", "standard error", "ahead on seeds"]
    values = by_seed([{**row, "algorithm": short[row["algorithm"]]} for row in rows], arguments.measure)
    print(markdown_table(header, lines(values, against, arguments.digits)))
    if suffix:
        print(f"\nAll algorithms with {suffix}.")


if __name__ == "__main__":
    main()
