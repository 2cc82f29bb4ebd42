"""Runs compared: the printed table against numbers worked out by hand, and what cannot be compared."""

from __future__ import annotations

import pytest
from benchmark_scripts import run

from globediff_torchrl.tables import write_rows

COLUMNS = ("env", "algorithm", "seed", "return_last", "code")


@pytest.fixture
def table(tmp_path):
    """GlobeDiff on four seeds and mappo on three of them, in no order; one run of an older code."""
    runs = [("globediff", 3, 9.0), ("globediff", 1, 5.0), ("globediff", 0, 3.0), ("globediff", 2, 4.0)]
    runs += [("mappo", 2, 5.0), ("mappo", 0, 1.0), ("mappo", 1, 2.0), ("oracle", 0, "")]
    rows = [dict(zip(COLUMNS, ("hunt", *of, "present"))) for of in runs]
    rows.append(dict(zip(COLUMNS, ("hunt", "mappo", 0, 0.5, "older"))))
    path = tmp_path / "runs.csv"
    write_rows(path, COLUMNS, rows)
    return path


def test_differences_are_over_the_seeds_that_both_have(monkeypatch, table, capsys):
    asked = ("--where", "code=present", "--against", "mappo", "--digits", "2")
    assert run(monkeypatch, "compare", str(table), *asked) is None
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.endswith("| less or more than mappo | standard error | ahead on seeds |")
    # 2, 3 and -1: mean 4 / 3, standard deviation sqrt(13 / 3)
    assert lines[0].startswith("| hunt | globediff | 4 | 5.25 | ") and lines[0].endswith(" | +1.33 | 1.20 | 2 of 3 |")
    assert lines[1].startswith("| hunt | mappo | 3 | 2.67 | ") and lines[1].endswith(" | - | - | - |")
    assert len(lines) == 2  # the oracle's run has no return


def test_some_seeds_alone_are_compared_where_they_are_named(monkeypatch, table, capsys):
    run(monkeypatch, "compare", str(table), "--where", "code=present", "--seeds", "0", "1", "--digits", "1")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| hunt | globediff | 2 | 4.0 | 3.0 to 5.0 |",
        "| hunt | mappo | 2 | 1.5 | 1.0 to 2.0 |",
    ]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((), r'got two of mappo on hunt with seed 0: choose with --where "column=value"'),
        (("--where", "cod=present"), "did you mean 'code'"),
        (("--where", "code=presnt"), "Unknown code 'presnt': did you mean 'present'"),
        (("--where", "code=older", "--seeds", "1"), "Unknown seed '1'"),
        (("--measure", "return_lst"), "did you mean 'return_last'"),
        (("--where", "code=present", "--against", "mapo"), "did you mean 'mappo'"),
    ],
)
def test_what_cannot_be_compared_is_one_line_that_names_the_fix(monkeypatch, table, capsys, asked, says):
    assert run(monkeypatch, "compare", str(table), *asked) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error


def test_a_table_that_is_not_there_is_said(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "compare", str(tmp_path / "runs.csv")) == 2
    assert "pass a runs.csv of bracket.py" in capsys.readouterr().err
