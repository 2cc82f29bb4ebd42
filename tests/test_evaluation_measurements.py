"""Rows that a benchmark measured come back as they went, and their table is one that Markdown reads."""

import pytest

from globediff_torchrl.studies.measurements import arguments, markdown_table, mean_and_interval
from globediff_torchrl.tables import read_rows, write_rows


def test_rows_come_back_as_text_and_what_is_lacking_is_empty(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    assert read_rows(path) == []
    write_rows(path, ("map", "ms"), [{"map": "3m, small", "ms": 1.5}, {"map": "MMM"}])
    assert read_rows(path) == [{"map": "3m, small", "ms": "1.5"}, {"map": "MMM", "ms": ""}]
    write_rows(path, ("map", "ms"), [{"map": "25m", "ms": 2}])
    assert read_rows(path) == [{"map": "25m", "ms": "2"}]
    write_rows(path, ("map", "ms"), [{"map": "1.23456", "ms": 1.23456}], digits=3)
    assert read_rows(path) == [{"map": "1.23456", "ms": "1.23"}]
    with pytest.raises(ValueError, match="wall"):
        write_rows(path, ("map",), [{"wall": 1}])


def test_rows_that_cannot_be_written_leave_the_earlier_ones_whole(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, ("ms",), [{"ms": 1}])

    def interrupted():
        yield {"ms": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, ("ms",), interrupted())
    assert read_rows(path) == [{"ms": "1"}]
    assert [left.name for left in tmp_path.iterdir()] == ["rows.csv"]


def test_a_table_has_as_many_cells_in_every_line():
    assert markdown_table(["a", "b"], [["1", "2"], ["3", "4"]]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
        "| 3 | 4 |",
    ]
    with pytest.raises(ValueError, match="2 cells, got 1"):
        markdown_table(["a", "b"], [["1"]])


def test_every_benchmark_in_turns_takes_the_same_arguments():
    given = arguments("what it does", rounds=7, output="runs/there").parse_args(["--table-only"])
    assert (given.rounds, str(given.output), given.table_only) == (7, "runs/there", True)


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([3.0, 5.0], "4.00 | 3.00 to 5.00"),  # each mean of two is 3 or 5 in a quarter of the resamples
        (["3.0", "5.0", ""], "4.00 | 3.00 to 5.00"),
        ([2.5] * 5, "2.50 | 2.50 to 2.50"),
        ([0.125], "0.12 | one seed"),
        (["", ""], "- | -"),
        ([], "- | -"),
    ],
)
def test_a_cell_is_the_mean_over_seeds_and_its_interval(values, cells):
    assert " | ".join(mean_and_interval(values)) == cells
