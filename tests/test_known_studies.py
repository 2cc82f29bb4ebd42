"""What the studies print, draw and judge, against answers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from benchmark_scripts import load
from matplotlib.axes import Axes

from globediff_torchrl.studies.figures import bracket_figure, study_curves
from globediff_torchrl.studies.labels import shared_suffix
from globediff_torchrl.tables import write_rows


# ------------------------------------------------------------------------------------------------------ inferability
def test_the_table_of_inferability_shows_seen_before_unseen(monkeypatch, tmp_path, capsys):
    script = load(monkeypatch, "inferability")
    row = {**dict.fromkeys(script.COLUMNS, 0.25), "hp_seen": 0.9, "hp_unseen": 0.1}
    write_rows(tmp_path / "cells.csv", script.COLUMNS, [row])
    script.table(tmp_path / "cells.csv")
    assert "| 0.90 / 0.10 |" in capsys.readouterr().out


class Steps:
    """Stands for recorded episodes of one row each."""

    def __init__(self, rows):
        self.rows, self.episode = torch.arange(rows).unsqueeze(-1).expand(-1, 2), torch.arange(rows)

    def until(self, episodes):
        return self.rows[:episodes]

    def some(self, count, seed):
        return self.rows[:count]

    def x(self, aux, rows):
        return torch.zeros(len(rows), 3)

    def target(self, name, rows):
        return torch.zeros(len(rows), 2)


@pytest.mark.parametrize(("inferer", "fitted"), [("regressor", 40), ("fast", 36)])
def test_a_cell_is_fitted_on_its_own_episodes_and_judged_on_others(monkeypatch, inferer, fitted):
    """What a diffusion leaves open is measured on the last tenth of them."""
    script, fits, judged = load(monkeypatch, "inferability"), [], []
    monkeypatch.setattr(script, "fit", lambda model, pairs, *_, **rest: fits.append((pairs, rest["validation"])))
    figures = ({"energy": 1.0}, {"energy": 2.0})
    monkeypatch.setattr(
        script, "judge", lambda model, data, cell, rows: judged.append((data, rows)) or figures[len(judged) - 1]
    )
    data = {"train": Steps(50), "test": Steps(20)}
    cell = {"types": "mirrored", "x": "own", "inferer": inferer, "target": "relative", "episodes": 40, "steps": 1}
    row = script.run({**cell, "seed": 1}, data, SimpleNamespace(batch=8, rows=12))
    ((pairs, measured),) = fits
    assert pairs.rows[:, 0].tolist() == list(range(fitted))
    assert (measured.rows[:, 0].tolist() if measured else []) == list(range(fitted, 40))
    (test, rows), (train, few) = judged
    assert test is data["test"] and rows[:, 0].tolist() == list(range(12))
    assert train is data["train"] and len(set(few[:, 0].tolist())) == 6 and few.max() < 40
    assert (row["energy"], row["train_energy"]) == (1.0, 2.0)


# ----------------------------------------------------------------------------------------------------------- figures
def spy(monkeypatch, name):
    """The positional arguments of each call of an Axes' method, with the title that the panel gets."""
    calls, method = [], getattr(Axes, name)

    def recorded(axes, *args, **rest):
        calls.append((axes, args))
        return method(axes, *args, **rest)

    monkeypatch.setattr(Axes, name, recorded)
    return lambda: [(axes.get_title(), *args) for axes, args in calls]


def test_the_bar_of_an_algorithm_is_its_mean_over_the_seeds_of_that_environment(monkeypatch, tmp_path):
    bars = spy(monkeypatch, "barh")
    returns = {"hunt": (0.5, 1.5), "gates": (2.0, 4.0)}
    rows = [{"env": env, "algorithm": "mappo", "return_last": r} for env, both in returns.items() for r in both]
    bracket_figure(rows, tmp_path / "study.png")
    assert bars() == [("hunt", ["mappo"], [1.0]), ("gates", ["mappo"], [3.0])]


@pytest.mark.parametrize(
    ("labels", "shared"),
    [
        (["globediff+frames-9", "globediff+reads-sample+frames-9"], "+frames-9"),
        (["mappo+seeds-2+frames-9", "oracle+seeds-2+frames-9"], "+seeds-2+frames-9"),
        (["mappo++kwargs.box-1+frames-9", "oracle++kwargs.box-1+frames-9"], "++kwargs.box-1+frames-9"),
        (["mappo++frames-9", "oracle+frames-9"], ""),
        (["mappo+frames-9", "oracle+frames-99"], ""),
        (["mappo", "mappo+frames-9"], ""),
        (["mappo+frames-9", "mappo+frames-9"], ""),  # one algorithm alone keeps its name
        ([], ""),
    ],
)
def test_what_labels_share_is_the_longest_run_of_entries_at_their_ends(labels, shared):
    assert shared_suffix(labels) == shared


def test_the_figures_leave_away_what_all_labels_end_with(monkeypatch, tmp_path):
    bars, legends, legend = spy(monkeypatch, "barh"), [], Axes.legend
    monkeypatch.setattr(
        Axes, "legend", lambda axes, **rest: legends.append(axes.get_legend_handles_labels()[1]) or legend(axes, **rest)
    )
    names = ("mappo+frames-9", "globediff+reads-sample+frames-9")
    rows = [{"env": "hunt", "algorithm": name, "return_last": i} for i, name in enumerate(names)]
    bracket_figure(rows, tmp_path / "bars.png")
    study_curves({("hunt", name): [[(1.0, 0.0)]] for name in names}, tmp_path / "curves.png", "return")
    assert bars() == [("hunt", ["mappo", "globediff+reads-sample"], [0, 1])]
    assert legends == [["mappo (1)", "globediff+reads-sample (1)"]]


def test_the_band_of_a_study_reaches_from_the_lowest_seed_to_the_highest(monkeypatch, tmp_path):
    bands, lines = spy(monkeypatch, "fill_between"), spy(monkeypatch, "plot")
    study_curves(
        {("hunt", "mappo"): [[(1.0, 0.0), (2.0, 0.0)], [(1.0, 1.0), (2.0, 1.0)]]}, tmp_path / "a.png", "return"
    )
    ((_, frames, low, high),), ((_, _, mean),) = bands(), lines()
    assert frames.tolist() == [1, 2]
    assert (low.tolist(), mean.tolist(), high.tolist()) == ([0, 0], [0.5, 0.5], [1, 1])


# --------------------------------------------------------------------------------------------------------- inference
def test_the_mean_state_has_an_error_of_one_whatever_the_spreads(monkeypatch):
    state = torch.tensor([[0.0, 0.0], [2.0, 20.0]])  # deviations 1 and 10
    mean = state.mean(0).expand_as(state)
    assert load(monkeypatch, "inference").share(mean, state, torch.arange(2)) == pytest.approx(1.0)


def test_the_linear_fit_of_a_line_is_that_line(monkeypatch):
    x = torch.linspace(-2, 2, 50).unsqueeze(-1)
    weights = load(monkeypatch, "inference").linear_fit(x, 2 * x + 3)
    assert weights.flatten().tolist() == pytest.approx([2.0, 3.0], abs=1e-3)
