"""The bracket: its commands, its tables against numbers worked out by hand, and what it leaves of a run."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_scripts import BENCHMARKS, load, run

from globediff_torchrl import UserError
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.studies.processes import Processes
from globediff_torchrl.training.config import compose


@pytest.fixture
def bracket(monkeypatch):
    return load(monkeypatch, "bracket")


def entry(arguments: list[str], name: str) -> str | None:
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
    return values[-1] if values else None


@pytest.mark.parametrize(
    ("algorithm", "overrides", "folder"),
    [
        ("globediff", [], "dataset-seed0"),
        ("globediff+algorithm.reads=sample", ["training.lr=1e-3"], "dataset-seed0"),  # the same x and world
        # as they were always called, or what lies there would be collected anew
        ("mappo+env.hide=null", [], "dataset-env.hide-null-seed0"),
        ("globediff+algorithm.aux=joint_history", [], "dataset-aux-joint_history-seed0"),
        ("globediff+env.hide=null", ["env.max_steps=20"], "dataset-env.hide-null-env.max_steps-20-seed0"),
        # another world behind a second dot, a decimal point or a bracket
        ("globediff", ["+env.kwargs.box=0.3"], "dataset-env.kwargs.box-0.3-seed0"),
        ("globediff++env.kwargs.box=0.3", [], "dataset-env.kwargs.box-0.3-seed0"),
        ("globediff", ["env.sight_range=6.5"], "dataset-env.sight_range-6.5-seed0"),
        ("globediff", ["env.hide=[*.offset,line.*]"], "dataset-env.hide-_.offset_line._-seed0"),
        # other pairs of the same world
        ("globediff+algorithm.state_model.infer_per=agent", [], "dataset-infer_per-agent-seed0"),
        ("globediff", ["algorithm.state_model.infer_per=agent"], "dataset-infer_per-agent-seed0"),
        ("globediff", ["pretrain.frames=480"], "dataset-pretrain.frames-480-seed0"),
        ("globediff", ["pretrain.behaviour=random"], "dataset-pretrain.behaviour-random-seed0"),
        ("globediff+experiment=vmas_full", [], "dataset-experiment-vmas_full-seed0"),
        ("globediff", ["pretrain.steps=10", "pretrain.lr=1e-3"], "dataset-seed0"),  # another fit to the same
    ],
)
def test_each_x_and_world_has_offline_data_of_its_own(bracket, tmp_path, algorithm, overrides, folder):
    arguments = bracket.command("hunt", algorithm, 0, tmp_path, overrides)[1]
    assert Path(entry(arguments, "pretrain.dataset")) == tmp_path / "hunt" / folder


def test_a_command_is_one_that_the_configuration_takes(bracket):
    variant = "globediff++env.kwargs.box=0.3+algorithm.reads=sample+env.hide=null"
    output, (python, script, *arguments) = bracket.command("hunt", variant, 3, Path("runs"), ["training.lr=1e-3"])
    assert (python, Path(script).name) == (sys.executable, "vmas.py")
    assert output == Path("runs/hunt/globediff++kwargs.box-0.3+reads-sample+hide-null+training.lr-1e-3/seed3")
    config = compose("vmas", arguments)
    assert (config.algorithm.name, config.algorithm.reads, config.env.scenario) == ("globediff", "sample", "hunt")
    assert (config.env.hide, dict(config.env.kwargs), config.seed) == (None, {"box": 0.3}, 3)
    assert (config.training.lr, config.output) == (1e-3, str(output))


@pytest.mark.parametrize("override", ["training.lr=1e-3", "env.hide=[*.offset,line.*]", "+env.kwargs.path=a/b"])
def test_entries_for_all_runs_make_runs_of_their_own(bracket, tmp_path, override):
    """Under the same name the study would take what ran without them for what they ask for."""
    plain, other = (bracket.command("hunt", "mappo", 0, tmp_path, given)[0] for given in ([], [override]))
    assert plain == tmp_path / "hunt" / "mappo" / "seed0"
    assert other != plain and other.parent.parent == plain.parent.parent and other.name == "seed0"


@pytest.mark.parametrize(("env", "x"), [("hunt", "joint_history"), ("sonar", "joint"), ("smax/3m", "history")])
def test_x_direct_is_the_policy_that_reads_the_x_of_the_environment(bracket, tmp_path, env, x):
    output, arguments = bracket.command(env, "x_direct", 0, tmp_path, [])
    assert entry(arguments, "algorithm") == f"mappo_{x}"
    assert output == tmp_path / env.rpartition("/")[2] / "x_direct" / "seed0"


def test_the_length_of_a_run_is_the_brackets_own_on_vmas_and_the_familys_elsewhere(bracket, tmp_path):
    hunt, smax = (bracket.command(env, "mappo", 0, tmp_path, [])[1] for env in ("hunt", "smax/3m"))
    assert int(entry(hunt, "total_frames")) == 36 * 128 * PRESETS["hunt"].max_steps
    assert entry(smax, "total_frames") is None and entry(smax, "env.map") == "3m"


def test_a_generated_map_is_run_by_the_script_of_its_family_s_configuration(bracket, tmp_path):
    script, *arguments = bracket.command("smacv2/zerg_5_vs_5", "mappo", 0, tmp_path, [])[1][1:]
    assert Path(script).name == "smac.py" and Path(script).exists() and entry(arguments, "env.map") == "zerg_5_vs_5"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--envs", "smax/4m"), "did you mean 'smax/8m'"),
        (("--envs", "hunt", "--algorithms", "mappo", "globdiff"), "did you mean 'globediff'"),
        (("--envs", "hunt", "--algorithms", "mappo+algorithm.raeds=mean"), "algorithm.raeds"),
    ],
)
def test_a_mistake_ends_the_study_before_its_first_run(monkeypatch, bracket, tmp_path, capsys, asked, says):
    assert run(monkeypatch, "bracket", *asked, "--output", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and not list(tmp_path.iterdir())


def test_jax_is_no_part_of_a_study_beside_the_runs_on_smax(tmp_path):
    code = (
        f"import sys; sys.argv = ['bracket.py']; sys.path.insert(0, {str(BENCHMARKS)!r}); import bracket\n"
        f"bracket.command('smax/3m', 'mappo', 0, bracket.Path('x'), []); print('jax' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_two_families_with_a_scenario_of_one_name_do_not_share_results(monkeypatch, bracket, tmp_path, capsys):
    """Under one name the study would take what ran of the one for what it is to run of the other."""
    with pytest.raises(UserError, match=r"got smac/3m beside smax/3m: pass another --output"):
        bracket.check_families(["hunt", "smax/3m", "smac/3m"], tmp_path)
    finished_run(tmp_path / "3m" / "mappo" / "seed0", {"return": [1.0]}, env="smax/3m")
    finished_run(tmp_path / "hunt" / "mappo" / "seed0", {"return": [1.0]})  # it does not say
    bracket.check_families(["hunt", "vmas/hunt", "smax/3m", "smax/2s3z"], tmp_path)
    assert run(monkeypatch, "bracket", "--envs", "smac/3m", "--output", str(tmp_path)) == 2
    assert "got smac/3m beside smax/3m" in capsys.readouterr().err


def finished_run(folder: Path, columns: dict[str, list], complete: bool = True, **summary) -> None:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"complete": complete, **summary}))
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))


@pytest.fixture
def study(tmp_path):
    """Two seeds of one algorithm and one of another; a run that was stopped; numbers that are easy to average."""
    frames = list(range(1, 11))
    for seed, last in enumerate(([1, 2, 6], [4, 5, 6])):  # means 3 and 5
        columns = {"frames": frames, "return": [100] * 7 + last, "success": [0] * 8 + [0.25, 0.75]}  # 2 of 10 rows
        finished_run(
            tmp_path / "hunt" / "globediff" / f"seed{seed}",
            columns,
            seed=seed,
            frames=10,
            frames_per_second=1000.0 + 1000 * seed,
            infer_share=0.25 + 0.5 * seed,
        )
    finished_run(tmp_path / "hunt" / "mappo" / "seed0", {"frames": frames, "return": [7.0] * 9 + [""]}, seed=0)
    finished_run(tmp_path / "hunt" / "mappo" / "seed1", {"frames": frames, "return": [9.0] * 10}, complete=False)
    return tmp_path


def test_a_row_is_of_a_finished_run_the_mean_of_its_last_batches(bracket, study):
    rows = {(row["algorithm"], row["seed"]): row for row in bracket.collect(study)}
    assert set(rows) == {("globediff", 0), ("globediff", 1), ("mappo", 0)}
    assert [rows["globediff", seed]["return_last"] for seed in (0, 1)] == [3.0, 5.0]
    assert [rows["globediff", seed]["success_last"] for seed in (0, 1)] == [0.5, 0.5]
    assert (rows["mappo", 0]["return_last"], rows["mappo", 0]["success_last"]) == (7.0, "")
    assert all(set(row) == set(bracket.COLUMNS) and row["env"] == "hunt" for row in rows.values())


@pytest.mark.parametrize(
    ("window", "returns", "successes"),
    [
        ((7, 9), {("globediff", 0): 1.5, ("globediff", 1): 4.5, ("mappo", 0): 7.0}, [0.125, 0.125]),  # 8 and 9
        ((9, 10), {("globediff", 0): 6.0, ("globediff", 1): 6.0, ("mappo", 0): ""}, [0.75, 0.75]),
        ((10, 20), {("globediff", 0): "", ("globediff", 1): "", ("mappo", 0): ""}, ["", ""]),
    ],
)
def test_a_window_has_the_mean_of_the_batches_behind_its_first_frame(bracket, study, window, returns, successes):
    rows = {(row["algorithm"], row["seed"]): row for row in bracket.collect(study, window)}
    assert {run: row["return_{}_{}".format(*window)] for run, row in rows.items()} == returns
    assert [rows["globediff", seed]["success_{}_{}".format(*window)] for seed in (0, 1)] == successes
    assert [rows["globediff", seed]["return_last"] for seed in (0, 1)] == [3.0, 5.0]  # as without one


def test_a_window_is_written_and_one_without_a_frame_is_refused(monkeypatch, study, capsys):
    run(monkeypatch, "bracket", "--table-only", "--output", str(study), "--window", "0", "8")
    with (study / "runs.csv").open(newline="") as file:
        assert [row["return_0_8"] for row in csv.DictReader(file)] == ["87.625", "88", "7"]  # (7 x 100 + 1) / 8
    assert run(monkeypatch, "bracket", "--table-only", "--output", str(study), "--window", "8", "8") == 2
    assert "two rising numbers of frames, got [8, 8]" in capsys.readouterr().err


@pytest.mark.parametrize("quantity", ["return", "success"])
def test_the_tables_are_written_also_where_a_preset_lacks_what_the_curves_show(monkeypatch, study, quantity):
    assert run(monkeypatch, "bracket", "--table-only", "--output", str(study), "--curve", quantity) is None
    assert (study / "table.md").read_text().splitlines()[2:] == [
        "| hunt | globediff | 2 | 4.00 | 3.00 to 5.00 | 0.50 | 0.50 to 0.50 | 1,500 | 50% |",
        "| hunt | mappo | 1 | 7.00 | one seed | - | - | 0 | 0% |",
    ]
    with (study / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm"], row["seed"], row["return_last"]) for row in rows] == [
        ("globediff", "0", "3"),
        ("globediff", "1", "5"),
        ("mappo", "0", "7"),
    ]
    assert all((study / name).read_bytes()[:4] == b"\x89PNG" for name in ("bracket.png", "curves.png"))


def test_the_curves_are_of_finished_runs_and_leave_out_what_was_not_measured(bracket, study):
    found = bracket.curves(study, "success")
    assert set(found) == {("hunt", "globediff"), ("hunt", "mappo")}
    assert found["hunt", "globediff"][1][-2:] == [(9.0, 0.25), (10.0, 0.75)]
    assert found["hunt", "mappo"] == [[]]
    assert bracket.curves(study, "return")["hunt", "mappo"] == [[(float(frame), 7.0) for frame in range(1, 10)]]


@pytest.mark.parametrize(("code", "complete", "kept"), [(0, True, False), (0, False, True), (1, True, True)])
def test_only_a_run_that_has_ended_well_gives_up_its_checkpoints(bracket, tmp_path, code, complete, kept):
    output = tmp_path / "run"
    (output / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (output / "policy.safetensors").touch()
    (output / "summary.json").write_text(json.dumps({"complete": complete}))
    job = output, [sys.executable, "-c", f"raise SystemExit({code})"]
    assert bracket.run(job, Processes()) == (code == 0 and complete)
    assert (output / "checkpoints").exists() == kept
    assert (output / "policy.safetensors").exists()


ENDS = 'echo "{\\"complete\\": true}" > "$output/summary.json"'  # as a run does that comes to its end


@pytest.fixture
def runs_end(monkeypatch, tmp_path):
    """Stands in for Python in the runs of a study: ``runs_end(how)`` gives the file with the entries of those begun."""

    def stand_in(how: str) -> Path:
        python, begun = tmp_path / "python", tmp_path / "begun"
        output = 'for entry; do case "$entry" in output=*|resume=*) output="${entry#*=}";; esac; done'
        python.write_text(f'#!/bin/sh\nshift; echo "$@" >> "{begun}"\n{output}\n{how}\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        return begun

    return stand_in


def study_of(monkeypatch, tmp_path, *asked: str) -> int | None:
    return run(monkeypatch, "bracket", "--output", str(tmp_path / "study"), "--jobs", "1", *asked)


@pytest.mark.parametrize("asked", [("mappo", "--", "imports=[my_vault]"), ("mappo+imports=[my_vault]",)])
def test_an_environment_of_one_s_own_is_known_by_the_module_that_the_entries_import(
    monkeypatch, tmp_path, runs_end, asked
):
    monkeypatch.setitem(PRESETS, "vault", None)  # so that it is taken away again
    del PRESETS["vault"]
    monkeypatch.setitem(sys.modules, "my_vault", None)
    del sys.modules["my_vault"]
    module = 'from globediff_torchrl.envs.vmas import PRESETS\n\nPRESETS["vault"] = PRESETS["hunt"]\n'
    (tmp_path / "my_vault.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    begun = runs_end(ENDS)
    assert study_of(monkeypatch, tmp_path, "--envs", "vault", "--algorithms", *asked) is None
    assert "env.scenario=vault" in begun.read_text() and "imports=[my_vault]" in begun.read_text()


@pytest.mark.parametrize(
    ("left", "resumed"),
    [
        (("config.yaml", "checkpoints/checkpoint-960"), True),
        (("config.yaml", "pretraining.pt"), True),
        (("config.yaml", "checkpoints/.checkpoint-960"), False),  # half written
        (("config.yaml",), False),
        (("checkpoints/checkpoint-960",), False),
    ],
)
def test_a_run_that_was_interrupted_is_gone_on_with_where_it_has_left_something(
    bracket, tmp_path, runs_end, left, resumed
):
    output = tmp_path / "run"
    for name in left:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).touch()
    (output / "log.txt").write_text("of the first time\n")
    begun = runs_end(f"echo now; {ENDS}")
    assert bracket.run((output, [sys.executable, "vmas.py", f"output={output}", "seed=0"]), Processes())
    assert begun.read_text() == (f"resume={output}\n" if resumed else f"output={output} seed=0\n")
    assert (output / "log.txt").read_text() == ("of the first time\nnow\n" if resumed else "now\n")


def test_a_run_of_another_family_that_was_interrupted_is_not_gone_on_with(bracket, tmp_path):
    (tmp_path / "3m" / "mappo" / "seed0").mkdir(parents=True)
    (tmp_path / "3m" / "mappo" / "seed0" / "config.yaml").write_text("env: {family: smax, scenario: 3m}\n")
    bracket.check_families(["smax/3m"], tmp_path)
    with pytest.raises(UserError, match=r"got smac/3m beside smax/3m"):
        bracket.check_families(["smac/3m"], tmp_path)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def number(request):
    """A signal that ends this process; one that a shell has it ignore, as SIGINT in the background, is left ignored."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_ends_the_runs_and_begins_no_other_one(monkeypatch, tmp_path, runs_end, capsys, number):
    how = f'trap "echo left; exit 0" TERM; kill -{int(number)} $PPID; for i in $(seq 100); do sleep 0.1; done; {ENDS}'
    begun = runs_end(how)
    asked = ("--envs", "hunt", "--algorithms", "mappo", "oracle")
    assert study_of(monkeypatch, tmp_path, *asked) == 128 + number
    assert len(begun.read_text().splitlines()) == 1
    assert (tmp_path / "study" / "hunt" / "mappo" / "seed0" / "log.txt").read_text() == "left\n"
    name = signal.Signals(number).name
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by {name}; the same command goes on with the study."
    assert signal.getsignal(number) is signal.SIG_DFL


def test_runs_that_fail_are_counted_and_end_the_study_with_1(monkeypatch, tmp_path, runs_end, capsys):
    runs_end(f'case "$*" in *algorithm=mappo*) exit 3;; esac; {ENDS}')
    assert study_of(monkeypatch, tmp_path, "--envs", "hunt", "--algorithms", "mappo", "oracle") == 1
    log = tmp_path / "study" / "hunt" / "mappo" / "seed0" / "log.txt"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: 1 of 2 runs failed, see {log}"


def test_one_run_asked_for_twice_runs_once(monkeypatch, tmp_path, runs_end):
    begun = runs_end(ENDS)
    asked = ("--envs", "hunt", "vmas/hunt", "--algorithms", "mappo", "mappo", "--seeds", "0", "0")
    assert study_of(monkeypatch, tmp_path, *asked) is None
    assert len(begun.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--jobs", "0"), "--jobs must be a whole number above 0, got 0"),
        (("--table-only",), "study without a run that has ended: is it a misprint?"),
        (("--algorithms", "mappo", "--", "imports=[no_such_module]"), "but there is no such module"),
        (("--algorithms", f"mappo+env.hide={'m' * 250}"), "255 bytes at most, got 261 from mappo+hide-mmm"),
        (("--algorithms", f"mappo+env.hide={'m' * 230}"), "255 bytes at most, got 258 from dataset-env.hide-mmm"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_leaves_nothing(monkeypatch, tmp_path, runs_end, capsys, asked, says):
    runs_end(ENDS)
    assert study_of(monkeypatch, tmp_path, "--envs", "hunt", *asked) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert not (tmp_path / "study").exists()
