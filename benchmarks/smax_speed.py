"""Where do SMAX's frames go? Frames per CPU-second of the simulator, and with each layer on top of it.

    python benchmarks/smax_speed.py --envs 64 512
    python benchmarks/smax_speed.py --table-only     # nothing is run; the table of what is there
    python benchmarks/smax_speed.py --slow-push      # a layer more: the step with jaxmarl's own push

The layers are measured in turns within one process, with one thread, in CPU time of the whole process (jax's threads
included), after a warm-up that compiles: the compiled step alone, the step and the resets as a TorchRL environment, all
transforms with x = history, a Collector with mappo's policy, and one with GlobeDiff in front of the actor, each on the
environment that a training of that algorithm has (mappo's has no x). Actions are drawn uniformly among the legal ones,
but for the collectors. A frame is one step of one battle.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from omegaconf import open_dict
from torchrl.collectors import Collector
from tqdm import tqdm

from globediff_torchrl import make_env
from globediff_torchrl.errors import ends_program
from globediff_torchrl.studies.measurements import arguments, markdown_table
from globediff_torchrl.tables import read_rows, write_rows
from globediff_torchrl.training.algorithms import env_from_config, make_team
from globediff_torchrl.training.config import compose

SLOW_PUSH = "compiled step, jaxmarl's push"
LAYERS = ("compiled step", "TorchRL environment", "all transforms", "collector, mappo", "collector, globediff")
COLUMNS = ("envs", "layer", "round", "frames_per_cpu_s")


def compiled_step(name: str, num_envs: int, steps: int, fast_push: bool = True) -> Callable[[], None]:
    """The simulator's jitted step alone: battles that have ended go on without a reset."""
    env = make_env(name, num_envs=num_envs, aux=None, fast_push=fast_push).base_env
    env.reset()
    actions = env.rand_action()["agents", "action"].to(torch.int32).contiguous()
    taken = env.battles.actions(actions)

    def run() -> None:
        keys, battle = env._keys, env._battle
        for _ in range(steps):
            keys, battle, readings, _ = env.battles.step(keys, battle, taken)
        readings.observation.block_until_ready()

    return run


def environment(name: str, num_envs: int, steps: int, transforms: bool) -> Callable[[], None]:
    env = make_env(name, num_envs=num_envs)
    env = env if transforms else env.base_env
    start = env.reset()

    def run() -> None:
        data = start
        for _ in range(steps):
            _, data = env.step_and_maybe_reset(env.rand_action(data))

    return run


def collector(name: str, num_envs: int, steps: int, algorithm: str) -> Callable[[], None]:
    config = compose("smax", [f"env.map={name.partition('/')[2]}", f"algorithm={algorithm}"])
    with open_dict(config):
        config.env.num_envs = num_envs
    env = env_from_config(config)
    policy = make_team(config, env).policy
    batches = Collector(
        env, policy, frames_per_batch=steps * num_envs, total_frames=-1, device="cpu", track_traj_ids=False,
        auto_register_policy_transforms=False,
    )  # fmt: skip
    stream = iter(batches)
    return lambda: next(stream)


def measure(name: str, num_envs: int, args: argparse.Namespace, rows: list[dict], path: Path) -> None:
    done = {(int(row["envs"]), row["layer"], int(row["round"])) for row in rows}
    layers = (*LAYERS, SLOW_PUSH) if args.slow_push else LAYERS
    if all((num_envs, layer, turn) in done for layer in layers for turn in range(args.rounds)):
        return
    steps = max(args.frames // num_envs, 20)
    runs = {
        "compiled step": compiled_step(name, num_envs, steps),
        "TorchRL environment": environment(name, num_envs, steps, transforms=False),
        "all transforms": environment(name, num_envs, steps, transforms=True),
        "collector, mappo": collector(name, num_envs, steps, "mappo"),
        "collector, globediff": collector(name, num_envs, steps, "globediff"),
    }
    if args.slow_push:
        runs[SLOW_PUSH] = compiled_step(name, num_envs, steps, fast_push=False)
    for run in tqdm(runs.values(), desc=f"{num_envs} battles: warm-up"):
        run()
    for turn in tqdm(range(args.rounds), desc=f"{num_envs} battles: rounds"):
        for layer, run in runs.items():
            if (num_envs, layer, turn) in done:
                continue
            start = time.process_time()
            run()
            seconds = time.process_time() - start
            speed = f"{steps * num_envs / seconds:.0f}"
            rows.append({"envs": num_envs, "layer": layer, "round": turn, "frames_per_cpu_s": speed})
        write_rows(path, COLUMNS, rows)


def table(rows: list[dict]) -> str:
    """Medians over the rounds, with the smallest and the largest."""
    speeds: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        speeds.setdefault((int(row["envs"]), row["layer"]), []).append(float(row["frames_per_cpu_s"]))

    def cell(count: int, layer: str) -> str:
        found = speeds.get((count, layer))
        return f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})" if found else "not run"

    counts = sorted({count for count, _ in speeds})
    header = ["frames per CPU-second", *(f"{count} battles" for count in counts)]
    layers = [layer for layer in (SLOW_PUSH, *LAYERS) if layer in LAYERS or any(found == layer for _, found in speeds)]
    return markdown_table(header, ([layer, *(cell(count, layer) for count in counts)] for layer in layers))


@ends_program()
def main() -> None:
    parser = arguments(__doc__, rounds=5, output="runs/smax_speed")
    parser.add_argument("--map", default="smacv2_5_units")
    parser.add_argument("--envs", nargs="+", type=int, default=[64, 512], help="battles side by side")
    parser.add_argument("--frames", type=int, default=12_800, help="in each measurement")
    parser.add_argument("--slow-push", action="store_true", help="also the step with jaxmarl's own pushing of units")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.output / f"{args.map}-{args.frames}.csv"
    rows = read_rows(path)
    for num_envs in [] if args.table_only else args.envs:
        measure(f"smax/{args.map}", num_envs, args, rows, path)
    args.output.mkdir(parents=True, exist_ok=True)
    (path.with_suffix(".md")).write_text(table(rows) + "\n")
    tqdm.write(table(rows))


if __name__ == "__main__":
    main()
