"""What the benchmarks of speed and memory make of their rows, against tables worked out by hand."""

from __future__ import annotations

import pytest
from benchmark_scripts import load


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table below its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_growth_is_that_from_a_tenth_of_the_frames_to_their_end(monkeypatch):
    soak = load(monkeypatch, "soak")
    rows = [{"frames": 10 * i, **dict.fromkeys(soak.COLUMNS[2:], float(value))} for i, value in enumerate(
        [900, *[900] * 9, *[100] * 5, *[500] * 80, *[110] * 5, 900]
    )]  # fmt: skip
    figures = soak.growth(rows, 1000)
    assert figures["rss_mb"] == {"at_a_tenth": 100, "at_the_end": 110, "growth": pytest.approx(0.1)}
    with pytest.raises(SystemExit, match="too few samples"):
        soak.growth(rows[:50], 1000)


def test_a_layer_of_smax_has_the_median_of_its_rounds_between_the_extremes(monkeypatch):
    script = load(monkeypatch, "smax_speed")
    rows = [{"envs": "64", "layer": script.LAYERS[1], "frames_per_cpu_s": speed} for speed in ("10", "4000", "30")]
    table = cells(script.table(rows))
    assert table[1] == [script.LAYERS[1], "30 (10 to 4,000)"] and table[0] == [script.LAYERS[0], "not run"]
    assert script.SLOW_PUSH not in [row[0] for row in table]


def test_a_training_s_speed_is_compared_within_each_round(monkeypatch):
    script = load(monkeypatch, "speed")
    rows = []
    for turn, (ours, mappo) in enumerate([(10, 20), (30, 40), (40, 80)]):  # .5, .75, .5: of the medians it would be .75
        for name, speed in (("globediff", ours), ("mappo", mappo)):
            seconds = {"collect_s": 1, "infer_s": 0.5, "update_s": 2, "state_model_s": 1}
            common = {"envs": "64", "algorithm": name, "round": str(turn), "frames_per_s": 5, "memory_mb": 7}
            rows.append({**common, "frames_per_cpu_s": speed, **seconds})
    first, second = cells(script.training_table(rows))
    expected = ["64", "globediff", "5", "30", "1.000", "0.500", "2.000", "1.000", "12%", "7", "0.50 of mappo's"]
    assert first == expected
    assert second[:4] == ["64", "mappo", "5", "40"] and second[-1] == ""


def test_what_this_package_adds_to_a_step_is_told_of_the_client_and_of_all(monkeypatch):
    script = load(monkeypatch, "smac_step")
    group = {"map": "3m", "protobuf": "upb", "engine_is": "stand-in", "threads": "1", "round": "0"}
    parts = {"engine": 5, "messages": 1, "smacv2": 3, "wall": 12}
    rows = [
        {**group, **parts, "variant": "torchrl", "rest": 1, "inference": ""},
        {**group, **parts, "variant": "ours", "rest": 2, "inference": 0.5, "wall": 13},
        {**group, **parts, "variant": "torchrl", "round": "1", "rest": 99},  # its other half was not run
    ]
    (line,) = cells(script.table(rows))
    assert line[4:] == ["5.00", "1.00", "3.00", "1.00", "1.00", "0.50", "12.0", "13.0", "+10%", "+20%"]


@pytest.mark.parametrize("name", ["kill", "plugin", "smac_protobuf"])
def test_a_script_that_no_other_test_runs_can_be_loaded(monkeypatch, name):
    assert load(monkeypatch, name).main
