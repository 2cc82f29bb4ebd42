"""The figures of the results pages are those of the tables of runs beside them."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from benchmark_scripts import run

from globediff_torchrl.studies.measurements import mean_and_interval
from globediff_torchrl.studies.statistics import bootstrap_interval, paired_difference
from globediff_torchrl.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "data"
SMAX_CODES = {"present": "a step of pairs", "share": "share of new pairs", "larger": "share of the larger"}
SMAX_ROWS = {
    "GlobeDiff": "globediff",
    "GlobeDiff, r in another unit": "globediff",
    "GlobeDiff, r in a third one": "globediff",
    "unmasked": "mappo+hide-null",
    "x direct": "x_direct",
    "open loop": "open_loop",
}
SMAX_READS = {
    "the blend, K = 1, the default": "globediff",
    "the blend, K = 2": "globediff+diffusion_steps-2",
    "the blend, K = 5 (`preset=tuned`, width 128)": "globediff+preset-tuned",
    "one sample (the paper)": "globediff+reads-sample",
    "the mean beside a sample": "globediff+reads-mean_sample",
    "mean and spread of 4": "globediff+reads-mean_spread+num_samples-4",
    "the mean, seeds 1 and 2": "globediff+reads-mean",
    "the blend, x the joint history": "globediff+aux-joint_history",
    "the blend, r as a share of the newest pairs' variance": "globediff",
    "the blend, r as a share of the larger variance": "globediff",
    "the regressor's mean, for comparison": "regressor",
}


@cache
def runs(table: str) -> list[dict]:
    return read_rows(DATA / table)


def values(table: str, algorithm: str, env: str, measure: str, **conditions: str) -> dict[int, float]:
    """One value for each of the seeds 0 to 4; the others are those on which settings were chosen."""
    found = {}
    for row in sorted(runs(table), key=lambda row: int(row["seed"])):
        names = {**row, **{k: v for k, v in (("env", env), ("algorithm", algorithm), *conditions.items())}}
        if names == row and int(row["seed"]) < 5:
            assert int(row["seed"]) not in found, row
            found[int(row["seed"])] = float(row[measure])
    assert found, (table, algorithm, env, conditions)
    return found


def tables(page: str, header: str) -> list[list[str]]:
    """The lines, as cells without marks, of every table of the page whose header begins so."""
    found, inside = [], False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        inside = line.startswith("|") and (inside or line.startswith(header))
        if inside and not line.startswith((header, "|---")):
            found.append([cell.strip().replace("*", "") for cell in line.strip("|").split("|")])
    assert found, (page, header)
    return found


def written(*cells: str) -> list[float]:
    """The numbers of the cells: ``.53 (.52 to -.1)`` or ``0.53``."""
    return [float(number) for cell in cells for number in re.findall(r"[-+]?\d*\.\d+", cell)]


def measured(of: dict[int, float], digits: int) -> list[float]:
    return written(*mean_and_interval(of.values(), digits))


def smax(algorithm: str, code: str, measure: str = "success_last") -> dict[int, float]:
    if code == "older":
        return values("smax-runs.csv", algorithm, "smacv2_5_units", measure)
    return values("smax-more-runs.csv", algorithm, "smacv2_5_units", measure, study=SMAX_CODES[code])


def test_the_readme_s_table():
    algorithms = ("mappo", "x_direct", "regressor", "globediff", "oracle")
    for task, *cells in tables("README.md", "| task | MAPPO"):
        for algorithm, cell in zip(algorithms, cells, strict=True):
            if task.startswith("SMAX"):
                expected = measured(smax(algorithm, "present"), 3)
            else:
                table = "sonar-runs.csv" if task == "sonar" else "bracket-runs.csv"
                expected = measured(values(table, algorithm, task, "return_last", code="present"), 2)
            assert written(cell) == expected, (task, algorithm)


def test_the_bracket_on_vmas():
    for env, algorithm, seeds, *cells in tables("docs/results-vmas.md", "| environment | algorithm"):
        if "," in algorithm:
            continue  # of older code, with names of their own
        table = "sonar-runs.csv" if env == "sonar" else "bracket-runs.csv"
        returns, wins = (
            values(table, algorithm, env, f"{name}_last", code="present") for name in ("return", "success")
        )
        assert int(seeds) == len(returns), (env, algorithm)
        assert written(*cells[:4]) == [*measured(returns, 2), *measured(wins, 2)], (env, algorithm)


def test_the_bracket_on_smax():
    for name, code, seeds, *cells in tables("docs/results-smax.md", "| | code | seeds | win rate"):
        of = SMAX_ROWS.get(name, name)
        wins, returns = (smax(of, code, measure) for measure in ("success_last", "return_last"))
        assert int(seeds) == len(wins), (name, code)
        assert written(*cells) == [*measured(wins, 3), *measured(returns, 2)], (name, code)


def test_what_the_actor_reads_on_smax():
    default = smax("globediff", "present")
    for name, seeds, *cells, code in tables("docs/results-smax.md", "| the actor reads | seeds"):
        wins = smax(SMAX_READS[name], code)
        assert int(seeds) == len(wins), name
        expected = measured(wins, 3)[: None if cells[1] else 1]
        if name != "the blend, K = 1, the default":
            difference = paired_difference(list(wins.values()), [default[seed] for seed in wins])
            expected += [float(f"{number:.3f}") for number in difference]
        assert written(*cells) == pytest.approx(expected, abs=1e-9), name


def test_the_vae_beside_globediff():
    tasks = ("hunt", "gates", "sonar", "compass", "trilateration", "mirror")
    algorithms = {"VAE": "vae", "GlobeDiff": "globediff"}
    rows = {name: cells for name, *cells in tables("docs/results-vmas.md", "| | hunt | gates | sonar | compass | tril")}
    assert set(rows) == set(algorithms)
    for name, cells in rows.items():
        for task, cell in zip(tasks, cells, strict=True):
            table = "sonar-runs.csv" if task == "sonar" else "bracket-runs.csv"
            of = values(table, algorithms[name], task, "return_last", code="present")
            same = [of[seed] for seed in range(3)]
            assert written(cell) == written(*(f"{v:.2f}" for v in (sum(same) / 3, min(same), max(same)))), (name, task)


ON_2S3Z = {
    **SMAX_ROWS,
    "GlobeDiff, K = 2": "globediff+diffusion_steps-2",
    "GlobeDiff, K = 5 (`preset=tuned`)": "globediff+preset-tuned",
    "GlobeDiff, one sample (the paper)": "globediff+reads-sample",
    "GlobeDiff, mean": "globediff+reads-mean",
    "GlobeDiff, mean beside a sample": "globediff+reads-mean_sample",
    "GlobeDiff, mean and spread of 4": "globediff+reads-mean_spread+num_samples-4",
    "GlobeDiff, x the joint history": "globediff+aux-joint_history",
}


def test_the_bracket_on_a_fixed_map():
    def of(name: str, measure: str) -> dict[int, float]:
        label = f"{ON_2S3Z.get(name, name)}+total_frames-512000"
        return values("smax-2s3z-runs.csv", label, "2s3z", measure)

    for name, seeds, *cells in tables("docs/results-smax.md", "| 2s3z | seeds"):
        expected = []
        for measure in ("success_last", "success_200000_400000"):
            wins, theirs = of(name, measure), of("mappo", measure)
            assert int(seeds) == len(wins), name
            expected += measured(wins, 3)
            if name != "mappo":
                difference = paired_difference(list(wins.values()), [theirs[seed] for seed in wins])
                expected += [float(f"{number:.3f}") for number in difference]
        assert written(*cells) == expected, name


PARTS = {"health": "enemy_*.health", "type": "enemy_*.type", "alive": "enemy_*.alive", "all of it": "*", "nothing": ""}


@pytest.mark.parametrize(("header", "study"), [("| exchanged |", "older"), ("| exchanged on 2s3z |", "2s3z")])
def test_which_part_of_what_is_inferred_is_acted_on(header, study):
    wins: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in runs("smax-parts.csv"):
        if row["study"] == study:
            of = (row["run"].split("/")[0], row["part"], row["by"])
            wins.setdefault(of, {})[row["run"]] = float(row["success"])
    shown = set()
    for name, *cells in tables("docs/results-smax.md", header):
        columns = [(algorithm, by) for algorithm in ("globediff", "regressor") for by in ("truth", "other")]
        for (algorithm, by), cell in zip(columns, cells, strict=True):
            of = (algorithm, PARTS[name], by if PARTS[name] else "")
            alone = wins[algorithm, "", ""]
            assert len(wins[of]) == len(alone) == 5, of
            expected = [sum(wins[of].values()) / 5]
            if PARTS[name]:
                expected += bootstrap_interval([win - alone[run] for run, win in wins[of].items()])
            assert written(cell) == pytest.approx([round(number, 3) for number in expected], abs=1e-9), of
            shown.add(of)
    assert shown == set(wins)


AUX = {
    "time alone": "time",
    "own observation": "own",
    "own m = 3": "own_m3",
    "own m = 8": "own_m8",
    "GRU": "gru",
    "joint observation": "joint",
    "joint m = 3": "joint_m3",
}


def of_both_groups(row: dict, *figures: str) -> list[float]:
    return [float(f"{float(row[f'{figure}_{group}']):.2f}") for figure in figures for group in ("seen", "unseen")]


def test_what_can_be_inferred_on_smax():
    cells = {
        (row["types"], row["x"], row["inferer"]): row
        for row in runs("smax-inferability.csv")
        if row["collection"] == "second"
    }
    shown, types, x = set(), "", ""
    for first, name, _, *figures in tables("docs/results-smax.md", "| types | x | numbers"):
        types, x = first or types, name.split(",")[0].replace(" over the own episode", "").replace(" history", "")
        row = cells[types, AUX[x], "regressor"]
        last = [float(f"{float(row[figure]):.2f}") for figure in ("energy", "train_hp_all", "hp_all")]
        assert written(*figures) == [*of_both_groups(row, "hp", "hurt", "type"), *last], (types, x)
        shown.add((types, AUX[x], "regressor"))
    for first, name, model, *figures in tables("docs/results-smax.md", "| types | x | model"):
        types, x, model = first or types, name or x, model.strip("`")
        row = cells[types, AUX[x], model]
        both = of_both_groups(row, "hp", "hurt", "type", "hp_ratio", "type_ratio", "hp_cover", "type_cover")
        assert written(*figures) == [*both, float(f"{float(row['energy']):.2f}")], (types, x, model)
        shown.add((types, AUX[x], model))
    assert shown == set(cells)


@pytest.mark.parametrize("page", ["docs/results-smax.md", "docs/results-vmas.md"])
def test_the_printed_comparisons_run(monkeypatch, capsys, page):
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^python benchmarks/compare\.py (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        asked = shlex.split(command, comments=True)
        assert run(monkeypatch, "compare", *asked) is None
        assert f"less or more than {asked[asked.index('--against') + 1]} " in capsys.readouterr().out
