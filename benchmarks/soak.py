"""What a long run does to the machine: memory, file descriptors, threads and processes over a million frames.

    python benchmarks/soak.py --frames 1000000

Runs ``benchmarks/vmas.py`` with its defaults (the quick preset, globediff on hunt) as a process of its own and reads
/proc every few seconds. Writes ``samples.csv`` and ``soak.json``: each figure at a tenth of the frames and at the end.
Ends with 1 where memory has grown by 2 % or more in between, or where files, threads or processes have grown at all.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

from globediff_torchrl.envs.processes.children import with_descendants
from globediff_torchrl.tables import read_rows

SCRIPT = Path(__file__).with_name("vmas.py")
COLUMNS = ("seconds", "frames", "rss_mb", "pss_mb", "anonymous_mb", "files", "threads", "processes")
WINDOW = 0.05  # of the frames: a figure is the median over as much


def sample(pid: int) -> dict[str, float]:
    """Memory, files, threads and processes of ``pid`` and of what it has started, from /proc."""
    family = with_descendants([pid])
    memory = {"Rss": 0.0, "Pss": 0.0, "Anonymous": 0.0}
    for process in family:
        for row in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, rest = row.partition(":")
            if name in memory:
                memory[name] += int(rest.split()[0]) / 1024
    return {
        "rss_mb": memory["Rss"],
        "pss_mb": memory["Pss"],
        "anonymous_mb": memory["Anonymous"],
        "files": sum(len(os.listdir(f"/proc/{process}/fd")) for process in family),
        "threads": sum(len(os.listdir(f"/proc/{process}/task")) for process in family),
        "processes": len(family),
    }


def frames_of(folder: Path) -> int:
    """The frames of the newest complete row of the run's progress.csv."""
    frames = [row["frames"] for row in read_rows(folder / "progress.csv")]
    return int(float(frames[-1])) if frames and frames[-1] else 0


def watch(process: subprocess.Popen, folder: Path, interval: float) -> list[dict[str, float]]:
    """Samples until the process ends, also into ``samples.csv``."""
    rows, start = [], time.monotonic()
    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        while process.poll() is None:
            try:
                found = sample(process.pid)
            except (FileNotFoundError, ProcessLookupError):  # it has ended in between
                break
            seconds = round(time.monotonic() - start, 1)
            rows.append({"seconds": seconds, "frames": frames_of(folder / "run"), **found})
            writer.writerow({name: round(value, 2) for name, value in rows[-1].items()})
            file.flush()
            time.sleep(interval)
    return rows


def growth(rows: list[dict[str, float]], total: int) -> dict[str, dict[str, float]]:
    """Each column's median behind the first tenth and in the last stretch of training, and by how much it has grown."""
    early = [row for row in rows if 0.1 <= row["frames"] / total <= 0.1 + WINDOW]
    late = [row for row in rows if 1 - WINDOW <= row["frames"] / total < 1]
    if not early or not late:
        sys.exit("too few samples: take a shorter --interval or more --frames")
    figures = {}
    for name in COLUMNS[2:]:
        first, last = (statistics.median(row[name] for row in part) for part in (early, late))
        figures[name] = {"at_a_tenth": first, "at_the_end": last, "growth": last / first - 1}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"))
    parser.add_argument("overrides", nargs="*", help="further entries of the configuration, after --")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPT), f"total_frames={arguments.frames}", f"seed={arguments.seed}"]
    command += [f"output={folder / 'run'}", "progress=false", "threads=1", *arguments.overrides]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        rows = watch(process, folder, arguments.interval)
    if process.wait() != 0:
        sys.exit(f"the run ended with exit code {process.returncode}: {folder / 'log.txt'}")
    figures = growth(rows, rows[-1]["frames"])
    (folder / "soak.json").write_text(json.dumps(figures, indent=2))
    print("| | at a tenth | at the end | growth |\n|---|---|---|---|")
    for name, figure in figures.items():
        print(f"| {name} | {figure['at_a_tenth']:.1f} | {figure['at_the_end']:.1f} | {figure['growth']:+.2%} |")
    print(f"{rows[-1]['frames']:,} frames, {len(rows)} samples in {rows[-1]['seconds']:.0f} s")
    steady = all(figures[name]["growth"] <= 0 for name in ("files", "threads", "processes"))
    sys.exit(0 if figures["rss_mb"]["growth"] < 0.02 and steady else 1)


if __name__ == "__main__":
    main()
