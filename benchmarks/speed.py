"""How fast is it? Training beside a lean loop of the same job, and one inference beside diffusers' network.

    python benchmarks/speed.py                       # training: globediff, mappo and benchmarks/lean_mappo.py
    python benchmarks/speed.py --inference           # one inference: denoiser, steps K, batch
    python benchmarks/speed.py --table-only          # nothing is run; the tables of what is there

Trainings run one after another, each in a process of its own, in turns (globediff, mappo, lean, globediff, ...), with
one thread; the first iteration is left out. What is in the CSV files is not run again. On a busy machine compare the
frames per CPU-second. ``--device cuda`` is meant for a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from tensordict import TensorDict
from tqdm import tqdm

from globediff_torchrl import GlobeDiff, keys, make_env, make_trainer
from globediff_torchrl.errors import ends_program
from globediff_torchrl.studies.measurements import markdown_table
from globediff_torchrl.tables import read_rows, write_rows

LEAN = Path(__file__).with_name("lean_mappo.py")
ALGORITHMS = ("globediff", "mappo", "lean")
PHASES = ("collect", "infer", "update", "state_model")
TRAINING = (
    "envs", "algorithm", "round", "frames_per_s", "frames_per_cpu_s", *(f"{phase}_s" for phase in PHASES), "memory_mb",
)  # fmt: skip
HEADER = (
    "environments", "algorithm", "frames/s", "frames per CPU-s", "collect", "of it infer", "update", "state model",
    "inference", "memory, MB", "speed",
)  # fmt: skip
INFERENCE = ("batch", "steps", "network", "parameters", "ms")
STATE, FEATURES = 120, 6  # the size of SMAC's 2s3z, as rows of six features


# ------------------------------------------------------------------------------------------------------------ training
def measure_trainer(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Runs a training of this project in this process; a row of the table without its first three entries."""
    steps = make_env(f"vmas/{args.env}", num_envs=1).task.max_steps
    frames = steps * args.num_envs
    trainer = make_trainer(
        f"vmas/{args.env}", args.child, total_frames=args.iterations * frames, seed=args.seed, output=folder,
        overrides=[
            f"env.num_envs={args.num_envs}", f"device={args.device}", "threads=1", "progress=false", "logger=none",
            "evaluation.every_frames=0", "evaluation.final_episodes=1", "checkpoint.every_frames=1000000000",
            # the speed does not depend on how good the state model is
            "pretrain.behaviour=random", f"pretrain.frames={max(frames, 1024)}", "pretrain.steps=10",
        ],
    )  # fmt: skip
    marks = []
    trainer.register_op("post_steps", lambda: marks.append((time.perf_counter(), time.process_time())))
    trainer.train()
    first, last, measured = trainer.table.rows[0], trainer.table.rows[-1], len(marks) - 1
    seconds, cpu = (end - start for start, end in zip(marks[0], marks[-1]))
    phases = {f"{name}_s": (last[f"time/{name}"] - first[f"time/{name}"]) / measured for name in PHASES}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "frames_per_s": frames * measured / seconds, "frames_per_cpu_s": frames * measured / cpu, **phases,
        "memory_mb": memory,
    }  # fmt: skip


def run_child(algorithm: str, envs: int, iterations: int, args: argparse.Namespace) -> dict[str, float] | None:
    """One training in a process of its own, so that its peak memory is its own."""
    common = ["--env", args.env, "--num-envs", envs, "--iterations", iterations, "--seed", args.seed]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        script = [LEAN] if algorithm == "lean" else [__file__, "--child", algorithm]
        command = [sys.executable, *script, *common, "--device", args.device, "--output", result]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            tqdm.write(f"{algorithm} with {envs} environments failed: {done.stderr.strip().splitlines()[-1:]}")
            return None
        return json.loads(result.read_text())


def run_trainings(args: argparse.Namespace, path: Path) -> None:
    rows = read_rows(path)
    done = {(int(row["envs"]), row["algorithm"], int(row["round"])) for row in rows}
    plan = [(envs, name, turn) for turn in range(args.rounds) for envs in args.envs for name in ALGORITHMS]
    for envs, name, turn in tqdm([key for key in plan if key not in done], desc="trainings"):
        iterations = args.iterations or max(4, min(52, 640 // envs))  # with one environment: one state model update
        result = run_child(name, envs, iterations, args)
        if result is not None:
            measured = {column: result[column] for column in TRAINING[3:] if column in result}
            rows.append({"envs": envs, "algorithm": name, "round": turn, **measured})
            write_rows(path, TRAINING, rows)


def training_table(rows: list[dict]) -> str:
    """Medians over the rounds; the ratios are medians of each round's ratio of frames per CPU-second."""
    lines = []
    speed = {(row["envs"], row["algorithm"], row["round"]): float(row["frames_per_cpu_s"]) for row in rows}
    beside = {"globediff": "mappo", "mappo": "lean"}
    for envs in sorted({int(row["envs"]) for row in rows}):
        for name in ALGORITHMS:
            group = [row for row in rows if int(row["envs"]) == envs and row["algorithm"] == name]
            if not group:
                continue
            middle = {
                column: statistics.median(float(row.get(column) or 0) for row in group) for column in TRAINING[3:]
            }
            other = beside.get(name, name)
            ratios = [
                speed[row["envs"], name, row["round"]] / speed[row["envs"], other, row["round"]]
                for row in group
                if (row["envs"], other, row["round"]) in speed
            ]
            whole = middle["collect_s"] + middle["update_s"] + middle["state_model_s"]
            seconds = [f"{middle[f'{phase}_s']:.3f}" for phase in PHASES]
            ratio = f"{statistics.median(ratios):.2f} of {other}'s" if ratios and other != name else ""
            speeds = [f"{middle[column]:,.0f}" for column in ("frames_per_s", "frames_per_cpu_s")]
            shares = [f"{middle['infer_s'] / whole:.0%}", f"{middle['memory_mb']:,.0f}", ratio]
            lines.append([str(envs), name, *speeds, *seconds, *shares])
    return markdown_table(HEADER, lines)


# ----------------------------------------------------------------------------------------------------------- inference
def models(steps: int, device: str) -> dict[str, tuple[torch.nn.Module, Callable[[int], Callable[[], object]]]]:
    """Name -> (the network, a function of the batch size that gives what to time: one whole inference)."""
    rows = torch.arange(STATE).view(-1, FEATURES)
    sizes = (("mlp", 128), ("mlp", 256), ("mlp", 512), ("gated", 128), ("gated", 256))
    choices = {f"{kind}, width {width}": {"denoiser": kind, "width": width, "latent_modes": 1} for kind, width in sizes}
    choices["mlp, width 128, prior of fast"] = {**choices["mlp, width 128"], "latent_modes": 32}
    choices["U-Net, flat"] = {"denoiser": "unet", "width": 32, "latent_modes": 1}
    choices["U-Net, entity tokens"] = {**choices["U-Net, flat"], "tokens": "entity", "token_index": rows}
    found = {}
    for name, settings in choices.items():
        model = GlobeDiff(STATE, STATE, diffusion_steps=steps, **settings).to(device)

        def once(batch: int, model=model) -> Callable[[], object]:
            data = TensorDict({keys.AUX_OBSERVATION: torch.randn(batch, 1, STATE, device=device)}, [batch])
            return lambda: model(data)

        found[name] = (model, once)
    network = diffusers_network(device)
    if network is not None:

        def once(batch: int) -> Callable[[], object]:
            def chain() -> torch.Tensor:
                s = torch.randn(batch, 1, STATE, device=device)
                for k in range(steps, 0, -1):
                    s = network(s, k).sample
                return s

            return chain

        found["diffusers' UNet1DModel"] = (network, once)
    return found


def diffusers_network(device: str) -> torch.nn.Module | None:
    """The temporal U-Net of Diffuser (Janner et al. 2022) as diffusers has it, over the flat state; it reads no x."""
    try:
        from diffusers import UNet1DModel
    except ImportError:
        tqdm.write("diffusers is not installed: its UNet1DModel is left out; pip install 'globediff_torchrl[test]'.")
        return None
    levels = (32, 64, 128, 256)
    return UNet1DModel(
        in_channels=1, out_channels=1, block_out_channels=levels, down_block_types=["DownResnetBlock1D"] * 4,
        up_block_types=["UpResnetBlock1D"] * 3, mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock",
        time_embedding_type="positional", use_timestep_embedding=True, flip_sin_to_cos=False, freq_shift=1,
        downsample_each_block=False, layers_per_block=1, norm_num_groups=8, act_fn="mish",
    ).to(device)  # fmt: skip


def milliseconds(call: Callable[[], object], device: str) -> float:
    """CPU time of one call, or, on a GPU, the time until it has ended."""
    if device == "cpu":
        start = time.process_time()
        call()
        return 1e3 * (time.process_time() - start)
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


@torch.no_grad()
def run_inferences(args: argparse.Namespace, path: Path) -> None:
    torch.manual_seed(args.seed)
    rows = read_rows(path)
    done = {(int(row["batch"]), int(row["steps"])) for row in rows}
    plan = [(batch, steps) for batch in args.batches for steps in args.steps if (batch, steps) not in done]
    for batch, steps in tqdm(plan, desc="inferences"):
        networks = models(steps, args.device)
        calls = {name: once(batch) for name, (_, once) in networks.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(args.rounds + 1):
            for name, call in calls.items():
                # quick calls several times, the shortest: it is the one that was not disturbed
                elapsed = [milliseconds(call, args.device)]
                while len(elapsed) < 10 and sum(elapsed) < 50:
                    elapsed.append(milliseconds(call, args.device))
                if turn > 0:  # the first turn warms up
                    times[name].append(min(elapsed))
        for name, (network, _) in networks.items():
            size = sum(parameter.numel() for parameter in network.parameters())
            ms = statistics.median(times[name])
            rows.append({"batch": batch, "steps": steps, "network": name, "parameters": size, "ms": ms})
        write_rows(path, INFERENCE, rows)


def inference_table(rows: list[dict]) -> str:
    """One line a network, one column for each K and batch."""
    columns = sorted({(int(row["steps"]), int(row["batch"])) for row in rows})
    cells = {(row["network"], int(row["steps"]), int(row["batch"])): float(row["ms"]) for row in rows}
    sizes = {row["network"]: int(row["parameters"]) for row in rows}
    lines = []
    for name, size in sizes.items():
        entries = [cells.get((name, *column)) for column in columns]
        texts = ["" if entry is None else f"{entry:.3g}" if entry < 100 else f"{entry:,.0f}" for entry in entries]
        lines.append([name, f"{size:,}", *texts])
    return markdown_table(["ms an inference", "parameters", *(f"K = {k}, B = {batch}" for k, batch in columns)], lines)


# ---------------------------------------------------------------------------------------------------------------- both
@ends_program()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inference", action="store_true", help="time one inference in place of trainings")
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the tables of what is there")
    parser.add_argument("--env", default="hunt", help="a preset that benchmarks/lean_mappo.py knows")
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 64, 512], help="numbers of environments")
    parser.add_argument("--iterations", type=int, help="of a training; by default about 40,000 frames, 4 at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", nargs="+", type=int, default=[5, 40, 320])
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 5], help="diffusion steps K")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/speed"))
    parser.add_argument("--child", choices=ALGORITHMS[:2], help=argparse.SUPPRESS)
    parser.add_argument("--num-envs", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        with tempfile.TemporaryDirectory() as folder:
            args.output.write_text(json.dumps(measure_trainer(args, folder)))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    training, inference = args.output / "training.csv", args.output / "inference.csv"
    if not args.table_only:
        if args.inference:
            run_inferences(args, inference)
        else:
            run_trainings(args, training)
    tables = f"{training_table(read_rows(training))}\n\n{inference_table(read_rows(inference))}"
    (args.output / "table.md").write_text(f"{tables}\n")
    print(tables)


if __name__ == "__main__":
    main()
