"""What survives a kill: a short run is ended by SIGKILL at ten moments, resumed, and compared with one left alone.

    python benchmarks/kill.py --seed 100

Each moment is a run of ``benchmarks/vmas.py`` of its own, and its resume. Compared are the frames, every column of
``progress.csv`` but the times, and every number of ``policy.safetensors``, all of which must be equal bit by bit.
Writes ``table.md``; ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from safetensors.torch import load_file

from globediff_torchrl.studies.measurements import markdown_table
from globediff_torchrl.tables import read_rows

SCRIPT = Path(__file__).with_name("vmas.py")
BATCH, ITERATIONS = 32 * 20, 10
HEADER = ("killed at", "it was", "done again", "result")
JOB = (
    "algorithm=globediff", "algorithm.state_model.width=32", "env.scenario=hunt", "env.num_envs=32", "env.max_steps=20",
    f"total_frames={BATCH * ITERATIONS}", "pretrain.frames=2560", "pretrain.steps=600", "pretrain.batch_size=64",
    "state_model_update.every_episodes=50", f"checkpoint.every_frames={2 * BATCH}", "threads=1",
    f"evaluation.every_frames={3 * BATCH}", "evaluation.episodes=8", "evaluation.final_episodes=16", "progress=false",
    "logger=none",
)  # fmt: skip


@dataclass
class Run:
    """A process of the job, and what can be seen of it from outside."""

    folder: Path
    process: subprocess.Popen
    log: Path

    @classmethod
    def start(cls, folder: Path, *overrides: str) -> Run:
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}-{len(list(folder.parent.glob(f'{folder.name}-*.txt')))}.txt")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            command = [sys.executable, "-u", str(SCRIPT), *overrides]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        return cls(folder, process, log)

    def wait(self, happened: Callable[[], bool]) -> None:
        """Returns within a millisecond or so of what is waited for, or at the run's end."""
        while self.process.poll() is None and not happened():
            time.sleep(0.0005)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def rows(self) -> list[dict[str, str]]:
        return read_rows(self.folder / "progress.csv")

    def frames(self) -> int:
        rows = self.rows()
        return int(float(rows[-1]["frames"] or 0)) if rows else 0

    def checkpoints(self) -> list[Path]:
        return list((self.folder / "checkpoints").glob("checkpoint-*"))

    def dataset(self) -> bool:
        return (self.folder / "dataset" / "dataset.json").exists()

    def said(self, words: str) -> bool:
        return words in self.log.read_text()


@dataclass
class Whole:
    """The run that was left alone, and how long its parts took, in seconds."""

    run: Run
    seconds: float
    collect: float
    update: float
    fit: float


def moments(whole: Whole, chance: random.Random) -> dict[str, Callable[[Run], None]]:
    """Where each run is to be killed: the name of a moment, and what waits for it."""

    def row(run: Run, least: int = 3) -> None:
        chosen = chance.randint(least, ITERATIONS - 2)
        run.wait(lambda: len(run.rows()) >= chosen)

    def in_behaviour(run: Run) -> None:
        run.wait(lambda: (run.folder / "dataset").exists())
        time.sleep(chance.uniform(0, 0.3))

    def in_fit(run: Run) -> None:
        run.wait(run.dataset)
        time.sleep(chance.uniform(0, whole.fit))

    def in_collection(run: Run) -> None:
        row(run)
        time.sleep(chance.uniform(0.1, 0.9) * whole.collect)

    def in_update(run: Run) -> None:
        row(run)
        time.sleep(whole.collect + chance.uniform(0.1, 0.9) * whole.update)

    def in_writing(run: Run) -> None:
        chosen = chance.randint(1, 3)
        run.wait(lambda: len(run.rows()) >= 2 * chosen + 1)
        run.wait(lambda: any((run.folder / "checkpoints").glob(".checkpoint-*stage*")))
        time.sleep(chance.uniform(0, 0.02))

    def behind_writing(run: Run) -> None:
        run.wait(lambda: len(run.checkpoints()) >= 2)

    def before_results(run: Run) -> None:
        last = run.folder / "checkpoints" / f"checkpoint-{BATCH * ITERATIONS:012d}"
        run.wait(last.exists)

    def anywhere(run: Run) -> None:
        end = time.monotonic() + chance.uniform(0.15, 0.95) * whole.seconds
        run.wait(lambda: time.monotonic() > end and (run.folder / "config.yaml").exists())  # before, there is no run

    return {
        "behaviour run": in_behaviour,
        "fit of the state model": in_fit,
        "first iteration": lambda run: run.wait(lambda: run.said("Pretrained on")),
        "collection": in_collection,
        "update": in_update,
        "checkpoint half written": in_writing,
        "checkpoint just written": behind_writing,
        "last checkpoint, no results": before_results,
        "anywhere (1)": anywhere,
        "anywhere (2)": anywhere,
    }


def left_alone(folder: Path, seed: int) -> Whole:
    start = time.monotonic()
    run = Run.start(folder, *JOB, f"seed={seed}", f"output={folder}")
    run.wait(run.dataset)
    fit = time.monotonic()
    run.wait(lambda: run.said("Pretrained on"))
    fit = time.monotonic() - fit
    if run.process.wait() != 0:
        sys.exit(f"the uninterrupted run failed: {run.log}")
    last = run.rows()[-1]
    collect, update = (float(last[f"time/{name}"]) / ITERATIONS for name in ("collect", "update"))
    return Whole(run, time.monotonic() - start, collect, update, fit)


def lost(resumed: Run, frames: int, had_data: bool, step: int) -> tuple[str, str]:
    """Where the run was when it was killed, and what the resume had to do again."""
    found = re.search(r"at frame (\d+)\.", resumed.log.read_text())
    start = int(found.group(1)) if found else 0
    if frames or start:
        again = "nothing" if start == BATCH * ITERATIONS else f"{max(frames - start, 0)} frames and what had begun"
        return f"behind frame {frames}", again
    if not had_data:
        return "before the dataset was complete", "the behaviour run"
    if step == 0:
        return "behind the dataset", "the fit so far"
    return f"behind step {step} of the fit", "what came behind that step"


def fit_step(folder: Path) -> int:
    path = folder / "pretraining.pt"
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else 0


def differences(one: Run, two: Run) -> list[str]:
    """What of the second run is not what it is in the first."""
    found = [] if one.frames() == two.frames() == BATCH * ITERATIONS else ["frames"]
    rows = [[{k: v for k, v in row.items() if not k.startswith("time/")} for row in run.rows()] for run in (one, two)]
    if rows[0] != rows[1]:
        found.append("progress.csv")
    weights = [load_file(run.folder / "policy.safetensors") for run in (one, two)]
    if weights[0].keys() != weights[1].keys() or not all(torch.equal(v, weights[1][k]) for k, v in weights[0].items()):
        found.append("policy.safetensors")
    return found


def survive(name: str, wait: Callable[[Run], None], whole: Whole, folder: Path, seed: int) -> tuple[list[str], bool]:
    """Runs the job until ``wait`` returns, kills it, resumes it; a row of the table, and whether all is equal."""
    run = Run.start(folder, *JOB, f"seed={seed}", f"output={folder}")
    wait(run)
    ended = run.process.poll() is not None
    run.kill()
    frames, step = run.frames(), fit_step(folder)
    has_run = (folder / "config.yaml").exists()
    had_data = run.dataset()
    resumed = Run.start(folder, *([f"resume={folder}"] if has_run else [*JOB, f"seed={seed}", f"output={folder}"]))
    code = resumed.process.wait()
    if ended:
        at, again = "had ended", "nothing"
    elif not has_run:
        at, again = "before there was a run", "nothing"
    else:
        at, again = lost(resumed, frames, had_data, step)
    different = [f"exit code {code}: {resumed.log}"] if code != 0 else differences(whole.run, resumed)
    left = [path.name for path in (folder / "checkpoints").glob(".*")]
    different += [f"left over: {', '.join(left)}"] if left else []
    return [name, at, again, "equal" if not different else "; ".join(different)], not different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100, help="of the job and of the moments")
    parser.add_argument("--output", type=Path, default=Path("runs/kill"))
    parser.add_argument("--moments", nargs="+", help="only those whose names begin so")
    arguments = parser.parse_args()
    folder = arguments.output.resolve() / f"seed{arguments.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    whole = left_alone(folder / "whole", arguments.seed)
    print(f"left alone: {whole.seconds:.1f} s, of which fit {whole.fit:.1f} s", flush=True)
    chance = random.Random(arguments.seed)
    rows = []
    print(markdown_table(HEADER, rows), flush=True)
    failed = 0
    for number, (name, wait) in enumerate(moments(whole, chance).items()):
        if arguments.moments and not name.startswith(tuple(arguments.moments)):
            continue
        row, equal = survive(name, wait, whole, folder / f"killed{number}", arguments.seed)
        rows.append(row)
        print(markdown_table(HEADER, rows).splitlines()[-1], flush=True)
        failed += not equal
    leaks = [log.name for log in folder.glob("*.txt") if "leaked semaphore" in log.read_text()]
    if leaks:
        print(f"Python's resource tracker complained of leaked semaphores in {len(leaks)} of the killed runs.")
    (folder / "table.md").write_text(markdown_table(HEADER, rows) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
