"""The bracket: how much of the gap between a floor and a ceiling does an inferred state close?

    python benchmarks/bracket.py --envs hunt gates trilateration --seeds 0 1 2 --jobs 2

Runs ``benchmarks/<family>.py`` once for each environment, algorithm and seed, one torch thread a run; a run that has
ended keeps its policy and its table, not its checkpoints. Ctrl-C and SIGTERM stop it, and the same command goes on: it
skips the runs that have ended, and resumes those that have not. Ends with exit code 1 where a run failed. Writes
``runs.csv``, ``table.md``, ``bracket.png`` and ``curves.png``; ``compare.py`` compares them.

An environment is a VMAS preset, or named with its family: ``smax/smacv2_5_units``. ``algorithm+entry=value`` is a
variant of an algorithm, ``algorithm++env.kwargs.box=0.3`` one with an entry that the configuration has not; entries
after ``--`` make a variant of every algorithm. All state models of one environment, x and seed are pretrained on the
same offline data, but those that ask for other pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

from tqdm import tqdm

from globediff_torchrl.envs import make_env
from globediff_torchrl.envs.families import check_name
from globediff_torchrl.errors import UserError, check_count, ends_program
from globediff_torchrl.studies.figures import bracket_figure, study_curves
from globediff_torchrl.studies.labels import dataset_name, label_parts, run_name
from globediff_torchrl.studies.measurements import markdown_table, mean_and_interval
from globediff_torchrl.studies.processes import Processes
from globediff_torchrl.tables import read_rows, write_rows
from globediff_torchrl.task import Task
from globediff_torchrl.training.cli import check_arguments
from globediff_torchrl.training.config import compose, main_config, scenario_entry
from globediff_torchrl.training.imports import import_modules
from globediff_torchrl.training.resume import env_of
from globediff_torchrl.training.run_files import CHECKPOINTS, CONFIG, FIT_STATE, SUMMARY, TABLE

ALGORITHMS = ("open_loop", "mappo", "x_direct", "regressor", "globediff", "oracle")
ITERATIONS = {"hunt": 36, "compass": 40}  # of 128 episodes each; 30 elsewhere
COLUMNS = (
    "env", "algorithm", "seed", "frames", "return_last", "success_last", "deterministic/return", "stochastic/return",
    "deterministic/success", "stochastic/success", "deterministic/state_error_sample", "deterministic/state_error_mean",
    "frames_per_second", "infer_share", "collect", "infer", "update", "state_model",
)  # fmt: skip
HEADER = (
    "environment", "algorithm", "seeds", "return (last 3 batches)", "95% interval", "win rate (last fifth)",
    "95% interval", "frames/s", "infer",
)  # fmt: skip
SPEED = ("frames_per_second", "infer_share")
LOG = "log.txt"  # of a run: what it printed
LAST = {"return": 3, "success": 1 / 5}  # of the training's own batches: so many, or so large a share of the run


def named(env: str) -> tuple[str, str]:
    """Family and scenario of an environment as it is given."""
    family, _, scenario = env.rpartition("/")
    return family or "vmas", scenario


def check_families(envs: list[str], folder: Path) -> None:
    """Refuses two families with a scenario of one name: its folder would hold the results of both.

    Raises:
        UserError: they are both in ``envs``, or the other one's results are there.
    """
    families = {}
    for family, scenario in map(named, envs):
        there = [json.loads(path.read_text()).get("env") for path in folder.glob(f"{scenario}/*/seed*/{SUMMARY}")]
        runs = [path.parent for path in folder.glob(f"{scenario}/*/seed*/{CONFIG}")]
        there += [env_of(run) for run in runs if not (run / SUMMARY).exists()]  # they would be resumed
        for other in [*there, families.setdefault(scenario, f"{family}/{scenario}")]:
            if other not in (None, f"{family}/{scenario}"):
                raise UserError(
                    f"{folder / scenario} is expected to hold runs of one environment, got {family}/{scenario} beside "
                    f"{other}: pass another --output for one of them."
                )


@lru_cache
def about(env: str) -> Task:
    """The environment's kind of x and its time limit. Asked only where a run needs them, as SMAX brings jax along."""
    made = make_env("/".join(named(env)), num_envs=1)
    made.close()
    return made.task


def import_own(entries: list[str]) -> None:
    """Imports the modules that ``imports=`` entries name: environments of one's own are known from then on."""
    for entry in entries:
        if entry.lstrip("+").startswith("imports="):
            import_modules(compose(overrides=[entry]).imports)


def command(env: str, algorithm: str, seed: int, folder: Path, overrides: list[str]) -> tuple[Path, list[str]]:
    """The output folder and the command line of one run."""
    family, scenario = named(env)
    check_name(f"{family}/{scenario}")
    name, *variant = label_parts(algorithm)
    entries = [*variant, *overrides]
    output = folder / scenario / run_name(algorithm, overrides) / f"seed{seed}"
    arguments = [
        f"algorithm={f'mappo_{about(env).aux}' if name == 'x_direct' else name}",
        f"{scenario_entry(family)}={scenario}", f"seed={seed}", f"output={output}",
        "threads=1", "progress=false", "logger=none", "evaluation.every_frames=0",
    ]  # fmt: skip
    if family == "vmas":
        arguments.append(f"total_frames={128 * about(env).horizon * ITERATIONS.get(scenario, 30)}")
    if "pretrain" not in algorithm:
        arguments.append(f"pretrain.dataset={folder / scenario / dataset_name(entries, seed)}")
    script = Path(__file__).with_name(f"{main_config(family)}.py")
    return output, [sys.executable, str(script), *arguments, *entries]


def commands(arguments: argparse.Namespace) -> dict[Path, list[str]]:
    """The command line of each run, by its output folder; a mistake in one is found before the first one begins."""
    variants = [entry for algorithm in arguments.algorithms for entry in label_parts(algorithm)[1:]]
    import_own([*arguments.overrides, *variants])
    check_families(arguments.envs, arguments.output)
    found = dict(
        command(env, algorithm, seed, arguments.output, arguments.overrides)
        for seed in arguments.seeds
        for algorithm in arguments.algorithms
        for env in arguments.envs  # innermost: two side by side seldom need the same offline data and wait
    )
    of_a_seed = len(arguments.algorithms) * len(arguments.envs)  # the other seeds differ in it alone
    for _, script, *entries in list(found.values())[:of_a_seed]:
        check_arguments(Path(script).stem, entries)
    return found


def resumable(output: Path) -> bool:
    """Whether a run there has left more to go on from than its configuration."""
    begun = (output / CONFIG).exists()
    return begun and ((output / FIT_STATE).exists() or any((output / CHECKPOINTS).glob("checkpoint-*")))


def run(job: tuple[Path, list[str]], processes: Processes) -> bool:
    """Begins a run or goes on with it; False where it failed, and not where a signal has ended the study."""
    output, arguments = job
    if processes.stopped_by is not None:
        return True
    output.mkdir(parents=True, exist_ok=True)
    goes_on = resumable(output)
    if goes_on:  # its folder is called after its entries, and its config.yaml has them all
        arguments = [*arguments[:2], f"resume={output}"]
    with (output / LOG).open("a" if goes_on else "w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = processes.run(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if code == 0 and finished(output):  # what is left to resume is nothing, and with a state model's pairs gigabytes
        shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
        return True
    if processes.stopped_by is not None:
        return True
    tqdm.write(f"did not come to its end, exit code {code}: {output / LOG}")
    return False


def finished(output: Path) -> bool:
    summary = output / SUMMARY
    return summary.exists() and json.loads(summary.read_text())["complete"]


def collect(folder: Path, window: Sequence[int] | None = None) -> list[dict]:
    """One row for each finished run below ``folder``, with the means over a window of its frames if one is given."""
    rows = []
    for path in sorted(folder.glob("*/*/seed*/summary.json")):
        summary = json.loads(path.read_text())
        if not summary["complete"]:  # it was stopped, and has left what it had
            continue
        env, algorithm = path.parts[-4:-2]
        summary.update(env=env, algorithm=algorithm)
        progress, within = read_rows(path.parent / TABLE), {}
        for name, last in LAST.items():
            points = [(float(row["frames"]), float(row[name])) for row in progress if row.get(name)]
            values = [value for _, value in points]
            summary[f"{name}_last"] = _mean(values[-(last if last >= 1 else math.ceil(last * len(values))) :])
            if window is not None:
                first, end = window
                within[f"{name}_{first}_{end}"] = _mean([value for frames, value in points if first < frames <= end])
        rows.append({**{name: summary.get(name, "") for name in COLUMNS}, **within})
    return rows


def _mean(values: list[float]) -> float | str:
    return sum(values) / len(values) if values else ""


def curves(folder: Path, quantity: str) -> dict[tuple[str, str], list]:
    """The points (frames, value) of each finished run, by environment and algorithm."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*/*/seed*/progress.csv")):
        if finished(path.parent):
            # not every preset has a success
            points = [(float(row["frames"]), float(row[quantity])) for row in read_rows(path) if row.get(quantity)]
            found[path.parts[-4:-2]].append(points)
    return found


def write(folder: Path, rows: list[dict], quantity: str) -> None:
    write_rows(folder / "runs.csv", list(rows[0]) if rows else COLUMNS, rows, digits=5)
    groups = defaultdict(list)
    for row in rows:
        groups[row["env"], row["algorithm"]].append(row)
    lines = []
    for (env, algorithm), group in groups.items():
        speed, share = (sum(float(row[name] or 0) for row in group) / len(group) for name in SPEED)
        measured = [cell for name in LAST for cell in mean_and_interval([row[f"{name}_last"] for row in group])]
        lines.append([env, algorithm, str(len(group)), *measured, f"{speed:,.0f}", f"{share:.0%}"])
    (folder / "table.md").write_text(markdown_table(HEADER, lines) + "\n")
    bracket_figure(rows, folder / "bracket.png")
    study_curves(curves(folder, quantity), folder / "curves.png", quantity)


def study(arguments: argparse.Namespace, processes: Processes) -> bool:
    """Runs what has not ended yet, and writes the tables behind each run; False where some failed."""
    jobs = [job for job in commands(arguments).items() if not finished(job[0])]
    failed = []
    with ThreadPoolExecutor(arguments.jobs) as pool, tqdm(total=len(jobs), desc="runs") as bar:
        futures = [pool.submit(run, job, processes) for job in jobs]
        for (output, _), future in zip(jobs, futures):
            # Python handles a signal in this thread; where the system gave it to another one, nothing would wake it
            while wait([future], timeout=0.2).not_done:
                pass
            if not future.result():
                failed.append(str(output / LOG))
            if processes.stopped_by is None:
                bar.update()
                write(arguments.output, collect(arguments.output, arguments.window), arguments.curve)
    write(arguments.output, collect(arguments.output, arguments.window), arguments.curve)
    if failed:
        print(f"error: {len(failed)} of {len(jobs)} runs failed, see {', '.join(failed)}", file=sys.stderr)
    return not failed


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["hunt", "trilateration", "gates"])
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--output", type=Path, default=Path("runs/bracket"))
    parser.add_argument("--curve", choices=["return", "success"], default="return", help="what curves.png draws")
    parser.add_argument(
        "--window", nargs=2, type=int, metavar=("FIRST", "LAST"), help="frames over which runs.csv has a mean as well"
    )
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the tables of what is there")
    parser.add_argument("overrides", nargs="*", help="entries of the configuration for all runs, after --")
    arguments = parser.parse_args()
    check_count("--jobs", arguments.jobs, "pass e.g. --jobs 2")
    if arguments.window is not None and arguments.window[0] >= arguments.window[1]:
        raise UserError(f"--window must be two rising numbers of frames, got {arguments.window}: pass e.g. 0 100000.")
    return arguments


@ends_program()
def main() -> None:
    arguments = parsed()
    if arguments.table_only:
        rows = collect(arguments.output, arguments.window)
        if not rows:
            raise UserError(
                f"--output is expected to be the folder of a study, got {arguments.output} without a run that has "
                "ended: is it a misprint? Leave --table-only away to run the study there."
            )
        write(arguments.output, rows, arguments.curve)
        return
    with Processes() as processes:
        well = study(arguments, processes)
    if processes.stopped_by is not None:
        name = signal.Signals(processes.stopped_by).name
        print(f"stopped by {name}; the same command goes on with the study.", file=sys.stderr)
        sys.exit(128 + processes.stopped_by)
    sys.exit(None if well else 1)


if __name__ == "__main__":
    main()
