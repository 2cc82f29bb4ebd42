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
        (("--measure", "env"), "in which these rows have numbers, got env: pass one of seed, return_last."),
    ],
)
def test_what_cannot_be_compared_is_one_line_that_names_the_fix(monkeypatch, table, capsys, asked, says):
    assert run(monkeypatch, "compare", str(table), *asked) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error


def test_a_table_that_is_not_there_is_said(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "compare", str(tmp_path / "runs.csv")) == 2
    assert "pass a runs.csv of bracket.py" in capsys.readouterr().err


@pytest.fixture
def labelled(tmp_path):
    """A writer of a table with one run of each algorithm, of the returns 1, 2, ..."""

    def write(*algorithms: str) -> str:
        rows = [
            {"env": "hunt", "algorithm": name, "seed": 0, "return_last": number}
            for number, name in enumerate(algorithms, 1)
        ]
        write_rows(tmp_path / "labelled.csv", COLUMNS, rows)
        return str(tmp_path / "labelled.csv")

    return write


@pytest.mark.parametrize("against", ["mappo", "mappo+total_frames-2000+num_envs-8"])
def test_what_all_labels_end_with_is_said_once(monkeypatch, labelled, capsys, against):
    shared = "+total_frames-2000+num_envs-8"
    table = labelled(f"mappo{shared}", f"globediff+reads-sample{shared}")
    assert run(monkeypatch, "compare", table, "--against", against, "--digits", "0") is None
    assert capsys.readouterr().out.splitlines() == [
        "| environment | algorithm | seeds | mean | 95% interval | less or more than mappo | standard error | "
        "ahead on seeds |",
        "|---|---|---|---|---|---|---|---|",
        "| hunt | globediff+reads-sample | 1 | 2 | one seed | +1 | nan | 1 of 1 |",
        "| hunt | mappo | 1 | 1 | one seed | - | - | - |",
        "",
        f"All algorithms with {shared}.",
    ]


@pytest.mark.parametrize("names", [("mappo+a-1",), ("mappo", "oracle+a-1"), ("mappo+a-1", "mappo+b-1+a-12")])
def test_labels_that_share_no_entry_are_printed_whole(monkeypatch, labelled, capsys, names):
    assert run(monkeypatch, "compare", labelled(*names), "--against", names[0], "--digits", "0") is None
    lines = capsys.readouterr().out.splitlines()[2:]
    assert {line.split(" | ")[1] for line in lines} == set(names) and len(lines) == len(names)


def test_of_two_names_that_fit_the_whole_one_counts(monkeypatch, labelled, capsys):
    table = labelled("mappo+a-1", "mappo+a-1+a-1")
    assert run(monkeypatch, "compare", table, "--against", "mappo+a-1", "--digits", "0") is None
    assert "less or more than mappo |" in capsys.readouterr().out
