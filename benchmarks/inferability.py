"""What can be inferred of the hidden state on SMAX (PO), and is GlobeDiff calibrated? Before any policy gains from it.

    python benchmarks/smax.py algorithm=mappo env.map=smacv2_5_units seed=100 output=runs/inferability/behaviour
    python benchmarks/inferability.py --behaviour runs/inferability/behaviour
    python benchmarks/inferability.py --table-only

Collects episodes of the behaviour policy once, with the enemies' types mirrored and independent. Then, for each
auxiliary observation x and each state model, one cell: fit on some episodes, judge on others, one row of the CSV as the
cell ends. A cell that is in the CSV is not run again. Rows of living agents alone. R2 and accuracy are those of living
enemies; spread / error and coverage are over all enemies, in sight or not. The GRU is one fitted to tell the same
target from an agent's whole episode; its memory is an x.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this script's folder: names in it would hide packages

import torch
from tqdm import tqdm

from globediff_torchrl import fit, load_policy, make_env, make_state_model
from globediff_torchrl.envs.smax.layouts import STEP_LIMIT, state_layout, target_layout
from globediff_torchrl.errors import ends_program
from globediff_torchrl.files import replacing
from globediff_torchrl.studies.episode_memory import EpisodeMemory, fit_memory, remember
from globediff_torchrl.studies.hidden_enemies import battle_reader, judge_enemies
from globediff_torchrl.studies.measurements import markdown_table
from globediff_torchrl.studies.probe import RowPairs, infer_rows
from globediff_torchrl.studies.recorded import Reads, Recorded, record_episodes
from globediff_torchrl.tables import read_rows, write_rows

SCENARIO = "smacv2_5_units"
UNITS, UNIT_TYPES, ACTIONS = 5, 6, 10
LAYOUTS = {
    "relative": target_layout(UNITS, UNIT_TYPES),
    "absolute": state_layout(UNITS, UNITS, UNIT_TYPES),
}
TYPES = ("mirrored", "independent")
AUX = {
    "time": "time",
    "own": Reads(actions=False),
    "own_m3": Reads(history=3),
    "own_m8": Reads(history=8),
    "joint": Reads(join=True, actions=False),
    "joint_m3": Reads(history=3, join=True),
    "gru": "memory",
}
GLOBEDIFF = {"width": 128}  # as configs/algorithm/globediff.yaml
INFERERS = {
    "regressor": ("regressor", {}),
    "fast": ("globediff", {**GLOBEDIFF, "preset": "fast"}),
    "tuned": ("globediff", {**GLOBEDIFF, "preset": "tuned"}),
}
GROUPS = ("all", "seen", "unseen")
_OF_GROUP = (
    "hp", "hurt", "type", "hp_se", "type_se", "hp_ratio", "type_ratio", "hp_cover", "type_cover", "hp_center",
    "hp_sample", "hp_mean",
)  # fmt: skip
# collect too: what is judged on are the episodes behind those collected to fit on
KEY = ("types", "x", "inferer", "target", "collect", "episodes", "steps", "seed")
COLUMNS = (
    *KEY, "d_x", "energy", *(f"{name}_{group}" for group in GROUPS for name in _OF_GROUP),
    "train_energy", "train_hp_all", "train_type_all", "train_hp_ratio_all", "cpu_s",
)  # fmt: skip
SAMPLES = 64
GRU_STEPS = 1200
COLLECT = 3000  # episodes to fit on, by default


# ------------------------------------------------------------------------------------------------------------ cells
def judge(model, data: Recorded, cell: dict, rows: torch.Tensor) -> dict[str, float]:
    """The cell's figures on some rows."""
    torch.manual_seed(cell["seed"] + 1)
    truth = data.target(cell["target"], rows)
    estimate, samples = infer_rows(model, data.x(AUX[cell["x"]], rows))
    seen, episode = data.data["seen"][rows[:, 0], rows[:, 1]], data.episode[rows[:, 0]]
    return judge_enemies(truth, estimate, samples, seen, episode, LAYOUTS[cell["target"]])


def run(cell: dict, data: dict[str, Recorded], args) -> dict:
    start = time.process_time()
    torch.manual_seed(cell["seed"])
    train, test = data["train"], data["test"]
    rows = train.until(cell["episodes"])

    def pairs(some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return train.x(AUX[cell["x"]], some), train.target(cell["target"], some)

    name, settings = INFERERS[cell["inferer"]]
    if name == "globediff":
        settings = {**settings, "num_samples": SAMPLES}
    sizes = tuple(part.shape[1] for part in pairs(rows[:1]))
    model = make_state_model(name, sizes, **settings)
    # what a diffusion leaves open is measured on a tenth of the episodes that is not fitted to, as in pretraining
    fitted, measured = rows, None
    if name == "globediff":
        apart = train.episode[rows[:, 0]] >= 0.9 * cell["episodes"]
        fitted, measured = rows[~apart], RowPairs(model, pairs, rows[apart])
    fit(model, RowPairs(model, pairs, fitted), cell["steps"], args.batch, seed=cell["seed"], validation=measured)
    row = {**cell, "d_x": sizes[0], **judge(model, test, cell, test.some(args.rows, 0))}
    few = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: args.rows // 2]]
    trained = judge(model, train, cell, few)
    row |= {f"train_{k}": v for k, v in trained.items() if k in ("energy", "hp_all", "type_all", "hp_ratio_all")}
    return {**row, "cpu_s": round(time.process_time() - start, 1)}


# ------------------------------------------------------------------------------------------------------------ study
def load(args, types: str) -> dict[str, Recorded]:
    """The episodes to fit on and to judge on, collected where they are not on disk."""
    total = args.collect + args.collect // 5
    path = args.output / f"{types}-{total}.pt"
    if not path.exists():
        _, policy = load_policy(args.behaviour, num_envs=128)
        env = make_env(f"smax/{SCENARIO}", 128, aux=None, seed=100, enemy_types=types, state_target="relative")
        read = battle_reader(env.task.observation_layout)
        steps = record_episodes(env, policy, read, total, seed=100, label=f"{types} episodes")
        args.output.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            torch.save(steps.to_dict(), part)
    raw = torch.load(path, weights_only=True)
    kept = raw["episode"] < args.collect
    parts = (("train", kept), ("test", ~kept))
    return {name: Recorded({k: v[m] for k, v in raw.items()}, ACTIONS, STEP_LIMIT) for name, m in parts}


def give_memory(args, data: dict[str, Recorded], cell: dict) -> None:
    """The GRU's memory of every step, by the one that was fitted to this cell's episodes with this seed."""
    path = args.output / f"gru-{cell['types']}-{args.collect}-{cell['episodes']}-{GRU_STEPS}-{cell['seed']}.pt"
    if path.exists():
        model = EpisodeMemory(data["train"].frames.shape[-1] + UNITS, LAYOUTS["relative"].size)
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        model = fit_memory(data["train"], "relative", cell["episodes"], cell["seed"], GRU_STEPS)
        torch.save(model.state_dict(), path)
    for some in data.values():
        remember(model, some)


def cells(args) -> list[dict]:
    """What answers most comes first: both sorts of types before the next inferer."""
    chosen = []
    for inferer in args.inferers:
        for types in args.types:
            for x in args.x:
                for episodes in args.episodes or [args.collect]:
                    values = (types, x, inferer, args.target, args.collect, episodes, args.steps, args.seed)
                    chosen.append(dict(zip(KEY, values)))
    return chosen


def read_cells(path: Path) -> list[dict]:
    """The rows of the CSV; files of before do not say how many episodes were collected, which was the default."""
    return [{**row, "collect": row.get("collect") or str(COLLECT)} for row in read_rows(path)]


def table(path: Path) -> None:
    """The CSV as a markdown table: seen | unseen in each entry."""
    rows = read_cells(path)
    pairs = ("hp", "hurt", "type", "hp_ratio", "type_ratio", "hp_cover", "type_cover")
    lines = []
    for row in rows:
        numbers = [[row[f"{name}_{group}"] for group in ("seen", "unseen")] for name in pairs]
        entries = [" / ".join(f"{float(v):.2f}" for v in two if v) for two in numbers]
        last = [f"{float(row[name]):.2f}" for name in ("energy", "train_hp_all", "hp_all")]
        lines.append([*(row[k] for k in KEY), *entries, *last])
    print(markdown_table([*KEY, *pairs, "energy", "hp train", "hp all"], lines))


@ends_program()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviour", type=Path, default=Path("runs/inferability/behaviour"), help="run of a policy")
    parser.add_argument("--output", type=Path, default=Path("runs/inferability"))
    parser.add_argument("--collect", type=int, default=COLLECT, help="episodes to fit on; a fifth as many to judge on")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--x", nargs="+", choices=AUX, default=tuple(AUX))
    parser.add_argument("--inferers", nargs="+", choices=INFERERS, default=("regressor", "fast", "tuned"))
    parser.add_argument("--target", choices=LAYOUTS, default="relative")
    parser.add_argument("--episodes", nargs="+", type=int, help="fit on the first of those collected alone")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rows", type=int, default=3000, help="to judge on: (step, living agent)")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--table-only", action="store_true", help="print what is in the CSV, and end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.output / "cells.csv"
    if args.table_only:
        return table(path)
    rows = read_cells(path)
    done = {tuple(row[name] for name in KEY) for row in rows}
    left = [cell for cell in cells(args) if tuple(str(cell[name]) for name in KEY) not in done]
    data, held = {}, None
    for cell in tqdm(left, desc="cells"):
        if held != cell["types"]:
            data = {}  # one sort of battles in memory at a time
            data, held = load(args, cell["types"]), cell["types"]
        if cell["x"] == "gru":
            give_memory(args, data, cell)
        rows.append(run(cell, data, args))
        write_rows(path, COLUMNS, rows, digits=4)


if __name__ == "__main__":
    main()
