"""Statistics over runs against numbers worked out by hand, and figures that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from scipy.stats import ttest_rel

from globediff_torchrl.evaluation.figures import learning_curve
from globediff_torchrl.studies.figures import bracket_figure, study_curves
from globediff_torchrl.studies.statistics import bootstrap_interval, paired_difference

PNG = b"\x89PNG"


def test_equal_values_have_an_interval_of_no_width():
    assert bootstrap_interval([2.5] * 5) == (2.5, 2.5)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_no_spread_can_be_told_from_fewer_than_two_values(values):
    assert all(math.isnan(end) for end in bootstrap_interval(values))


def test_two_values_give_the_interval_between_them():
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)  # the mean is 0 or 1 in a quarter of the resamples each


def test_the_interval_is_that_of_the_normal_approximation_on_many_values():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    ends = [bootstrap_interval(generator.normal(0, 1, 30), level=0.8, resamples=500) for _ in range(200)]
    assert 0.7 < np.mean([low <= 0 <= high for low, high in ends]) < 0.88


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=10))
def test_the_interval_repeats_and_grows_with_its_level(values):
    narrow, wide = (bootstrap_interval(values, level, resamples=300) for level in (0.5, 0.95))
    assert wide == bootstrap_interval(values, 0.95, resamples=300)
    assert min(values) - 1e-9 <= wide[0] <= narrow[0] <= narrow[1] <= wide[1] <= max(values) + 1e-9


def test_a_learning_curve_is_a_picture_also_without_any_point(tmp_path):
    final = {"final/deterministic/return": 2.0, "final/deterministic/return_sem": 0.1}
    for name, rows in (("some", [{"frames": 1.0, "return": 1.0}, {"frames": 2.0, **final}]), ("none", [])):
        learning_curve(rows, tmp_path / f"{name}.png", "title")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == PNG


def test_a_study_is_a_picture_and_nothing_is_drawn_of_nothing(tmp_path):
    rows = [{"env": e, "algorithm": a, "return_last": 1.0} for e in ("hunt", "gates") for a in ("globediff", "oracle")]
    bracket_figure(rows, tmp_path / "study.png")
    bracket_figure([], tmp_path / "empty.png")
    assert (tmp_path / "study.png").read_bytes()[:4] == PNG and not (tmp_path / "empty.png").exists()


def test_a_run_in_which_no_episode_ended_is_left_out_of_a_study(tmp_path, monkeypatch):
    bars, barh = [], Axes.barh
    monkeypatch.setattr(
        Axes, "barh", lambda self, names, means, **rest: bars.append((names, means)) or barh(self, names, means, **rest)
    )
    returns = {"globediff": 3.0, "oracle": ""}
    bracket_figure([{"env": "hunt", "algorithm": a, "return_last": r} for a, r in returns.items()], tmp_path / "a.png")
    bracket_figure([{"env": "hunt", "algorithm": "oracle", "return_last": ""}], tmp_path / "b.png")
    assert bars == [(["globediff"], [3.0])] and not (tmp_path / "b.png").exists()


def test_the_curves_of_a_study_are_a_picture_also_of_seeds_of_unequal_length(tmp_path):
    runs = {("hunt", "mappo"): [[(1.0, 0.0), (2.0, 1.0)], [(1.0, 0.5)]], ("gates", "oracle"): [[]]}
    study_curves(runs, tmp_path / "curves.png", "return")
    study_curves({}, tmp_path / "empty.png", "return")
    assert (tmp_path / "curves.png").read_bytes()[:4] == PNG and not (tmp_path / "empty.png").exists()


@pytest.mark.parametrize(("seeds", "share"), [(2, 0.5), (3, 0.75), (5, 0.83)])
def test_of_few_seeds_an_interval_holds_the_mean_as_often_as_the_documentation_says(seeds, share):
    studies = np.random.default_rng(0).normal(size=(2000, seeds))
    intervals = [bootstrap_interval(study, resamples=400, seed=i) for i, study in enumerate(studies)]
    held = np.mean([low <= 0 <= high for low, high in intervals])
    assert abs(held - share) < 0.03  # standard error .01


def test_a_difference_seed_by_seed_is_that_of_the_paired_t_test():
    generator = np.random.default_rng(2)
    worlds = generator.normal(0, 10, 6)  # what both owe to the seed
    ours, theirs = worlds + generator.normal(0.5, 0.1, 6), worlds + generator.normal(0, 0.1, 6)
    difference, error = paired_difference(ours, theirs)
    assert difference / error == pytest.approx(ttest_rel(ours, theirs).statistic)
    assert difference == pytest.approx(ours.mean() - theirs.mean()) and error < 0.2


def test_of_few_seeds_a_difference_has_no_error_and_of_none_no_value():
    one, none = paired_difference([2.0], [0.5]), paired_difference([], [])
    assert one[0] == 1.5 and all(math.isnan(number) for number in (one[1], *none))
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
