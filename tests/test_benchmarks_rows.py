"""The rows that the benchmarks of a trained state model keep and count, each of the run and the cell that it is of."""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from benchmark_scripts import ROOT, load


def part_rows(run: str, episodes: str, alone: float, exchanged: float) -> list[dict]:
    row = {"run": run, "episodes": episodes, "return": "1"}
    return [
        {**row, "part": "", "by": "", "success": str(alone)},
        {**row, "part": "*", "by": "other", "success": str(exchanged)},
    ]


def test_a_run_at_two_numbers_of_episodes_is_one_run_of_each_beside_its_own_baseline(monkeypatch):
    rows = []
    for run, more in (("r/globediff/seed0", 0.0), ("r/globediff/seed1", 0.1)):
        rows += part_rows(run, "512", 0.5, 0.25 + more) + part_rows(run, "1024", 0.75, 0.25 + more)
    lines = load(monkeypatch, "parts").table(rows).splitlines()[2:]
    assert lines == [
        "| globediff | - | - | 512 | 2 | 1.00 | 0.500 | - |",
        "| globediff | * | other | 512 | 2 | 1.00 | 0.300 | -0.250 to -0.150 |",
        "| globediff | - | - | 1024 | 2 | 1.00 | 0.750 | - |",
        "| globediff | * | other | 1024 | 2 | 1.00 | 0.300 | -0.500 to -0.400 |",
    ]


@pytest.fixture
def inference(monkeypatch):
    """The benchmark, with a measurement that takes no run: its error is the number of runs measured so far."""
    script, measured = load(monkeypatch, "inference"), []

    def measure(run, *args):
        measured.append(run)
        name = {"env": "vmas/hunt", "algorithm": run.parent.name, "seed": run.name, "what": "MLP from x"}
        return [{**name, **dict.fromkeys(script.COLUMNS[4:], float(len(measured)))}]

    monkeypatch.setattr(script, "measure", measure)
    return script


def test_runs_of_one_seed_and_other_algorithms_keep_their_rows(inference, monkeypatch, tmp_path, capsys):
    runs, output = ("hunt/globediff/seed0", "hunt/globediff+preset-tuned/seed0"), tmp_path / "rows.csv"
    for given in (runs, runs[:1]):  # the second time one of them again
        monkeypatch.setattr(sys, "argv", ["inference.py", *given, "--output", str(output)])
        inference.main()
    with output.open(newline="") as file:
        rows = [(row["algorithm"], row["seed"], row["error"]) for row in csv.DictReader(file)]
    assert rows == [("globediff+preset-tuned", "seed0", "2"), ("globediff", "seed0", "3")]
    assert "| vmas/hunt | globediff+preset-tuned | seed0 | MLP from x | 2.000 |" in capsys.readouterr().out


def test_a_file_from_before_the_algorithm_was_named_is_read_and_goes_on(inference, monkeypatch, tmp_path):
    output = tmp_path / "rows.csv"
    output.write_text((ROOT / "docs" / "data" / "inference.csv").read_text())
    monkeypatch.setattr(sys, "argv", ["inference.py", "hunt/globediff/seed0", "--output", str(output)])
    inference.main()
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows if row["env"] == "vmas/hunt"] == ["1"]  # the five of this run are replaced
    assert len(rows) == 25 + 1


def test_a_hidden_number_that_never_varies_counts_in_no_score(monkeypatch):
    """In units of a spread of 0 it would be infinite."""
    script, g = load(monkeypatch, "inference"), torch.Generator().manual_seed(0)
    state, samples = torch.randn(50, 2, generator=g), torch.randn(50, 4, 2, generator=g)
    constant, off = torch.full((50, 1), 0.5), torch.full((50, 4, 1), 0.5 + 1e-3)
    episode = torch.arange(50) // 5
    expected = script.scores(samples, state, torch.tensor([0, 1]), episode)
    wider, wider_state = torch.cat([off, samples], -1), torch.cat([constant, state], -1)
    assert script.scores(wider, wider_state, torch.tensor([0, 1, 2]), episode) == expected


def test_the_scores_compare_all_rows_and_none_with_its_own_episode(monkeypatch):
    """Of the truth as it was one episode later, more than the 2000 rows that once were enough."""
    script, g = load(monkeypatch, "inference"), torch.Generator().manual_seed(0)
    facts = torch.randn(30, 2, generator=g)
    state, other = facts.repeat_interleave(100, 0), facts.roll(1, 0).repeat_interleave(100, 0)
    found = script.scores(other.unsqueeze(1), state, torch.arange(2), torch.arange(3000) // 100)
    # the same 30 points, each once: |A - A'| and |B - B'| are one mean, |A - B| leaves the truth's own episode out
    scaled = facts / state.std(0)
    pairs, own = torch.cdist(scaled, scaled).sum(), (scaled - scaled.roll(1, 0)).norm(dim=-1).sum()
    expected = 2 * (pairs - own) / (30 * 29) - 2 * pairs / (30 * 29)
    assert found["energy_distance"] == pytest.approx(float(expected), abs=1e-5)


def test_the_figures_of_an_inference_do_not_depend_on_the_unit(monkeypatch):
    script, g = load(monkeypatch, "inference"), torch.Generator().manual_seed(0)
    state, samples, columns = torch.randn(60, 2, generator=g), torch.randn(60, 4, 2, generator=g), torch.arange(2)
    episode, expected = torch.arange(60) // 6, None
    for unit in (1.0, 1e-7, 1e7):
        found = script.scores(samples * unit, state * unit, columns, episode)
        found |= {"error": script.share(samples[:, 0] * unit, state * unit, columns)}
        expected = expected or found
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_cell_judged_on_other_episodes_is_another_cell(monkeypatch, tmp_path):
    script = load(monkeypatch, "inferability")

    def cell(collect: int) -> dict:
        args = Namespace(inferers=["fast"], types=["mirrored"], x=["own"], target="relative", steps=10, seed=1)
        args.episodes, args.collect = [100], collect
        return {name: str(value) for name, value in script.cells(args)[0].items()}

    assert cell(3000) != cell(500)
    old = {name: value for name, value in cell(3000).items() if name != "collect"}  # a file of before
    path = Path(tmp_path / "cells.csv")
    path.write_text(",".join(old) + "\n" + ",".join(old.values()) + "\n")
    assert script.read_cells(path) == [cell(3000)]


def test_the_published_cells_are_read_and_shown(monkeypatch, capsys):
    script = load(monkeypatch, "inferability")
    script.table(ROOT / "docs" / "data" / "smax-inferability.csv")
    assert "| mirrored | own_m3 | regressor | relative | 3000 | 3000 | 1500 | 100 |" in capsys.readouterr().out
