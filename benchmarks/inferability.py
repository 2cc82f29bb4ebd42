"""What can be inferred of the hidden state on SMAX (PO), and is GlobeDiff calibrated? Before any policy gains from it.

    python benchmarks/smax.py algorithm=mappo env.map=smacv2_5_units seed=100 output=runs/inferability/behaviour
    python benchmarks/inferability.py --behaviour runs/inferability/behaviour
    python benchmarks/inferability.py --table

Collects episodes of the behaviour policy once, with the enemies' types mirrored and independent. Then, for each
auxiliary observation x and each state model, one cell: fit on some episodes, judge on others, one row of the CSV as the
cell ends. A cell that is in the CSV is not run again. Rows of living agents alone. R2 and accuracy are those of living
enemies; spread / error and coverage are over all enemies, in sight or not.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.pop(0)  # this script's folder: names in it would hide packages

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchrl.envs.utils import ExplorationType, set_exploration_type
from tqdm import tqdm

from globediff_torchrl import Fitter, keys, load_policy, make_env, make_state_model
from globediff_torchrl.envs.smax_layouts import STEP_LIMIT, state_layout, target_layout
from globediff_torchrl.evaluation.inferability import (
    accuracy,
    coverage,
    energy_score,
    episode_error,
    r_squared,
    r_squared_error,
    spread_over_error,
)
from globediff_torchrl.state_models.fit import CENTER_SHARE, learning_rate

SCENARIO = "smacv2_5_units"
UNITS, UNIT_TYPES, ACTIONS = 5, 6, 10
LAYOUTS = {
    "relative": target_layout(UNITS, UNIT_TYPES),
    "absolute": state_layout(UNITS, UNITS, UNIT_TYPES),
}
TYPES = ("mirrored", "independent")
# name -> (earlier frames, whole team, own actions); time and gru are built otherwise
AUX = {
    "time": None,
    "own": (0, False, False),
    "own_m3": (3, False, True),
    "own_m8": (8, False, True),
    "joint": (0, True, False),
    "joint_m3": (3, True, True),
    "gru": None,
}
GLOBEDIFF = {"width": 128}  # as configs/algorithm/globediff.yaml
INFERERS = {
    "regressor": ("regressor", {}),
    "fast": ("globediff", {**GLOBEDIFF, "preset": "fast"}),
    "tuned": ("globediff", {**GLOBEDIFF, "preset": "tuned"}),
    # what else was tried where the spread was wrong; held-out: the spread of the last step (final_noise) is measured on
    # a tenth of the episodes that is not fitted to
    "fast-held-out": ("globediff", {**GLOBEDIFF, "preset": "fast"}),
    "tuned-held-out": ("globediff", {**GLOBEDIFF, "preset": "tuned", "final_noise": True}),
    "fast-narrow": ("globediff", {**GLOBEDIFF, "preset": "fast", "width": 64, "center_width": 64, "latent_width": 64}),
    "tuned-final": ("globediff", {**GLOBEDIFF, "preset": "tuned", "final_noise": True}),
    "fast-no-z": ("globediff", {**GLOBEDIFF, "preset": "fast", "latent_dim": 0}),
    "tuned-no-z": ("globediff", {**GLOBEDIFF, "preset": "tuned", "latent_dim": 0}),
    "tuned-no-center": ("globediff", {**GLOBEDIFF, "preset": "tuned", "center": "none"}),
}
GROUPS = ("all", "seen", "unseen")
_OF_GROUP = (
    "hp", "hurt", "type", "hp_se", "type_se", "hp_ratio", "type_ratio", "hp_cover", "type_cover", "hp_center",
    "hp_sample", "hp_mean",
)  # fmt: skip
KEY = ("types", "x", "inferer", "target", "episodes", "steps", "seed")
COLUMNS = (
    *KEY, "d_x", "energy", *(f"{name}_{group}" for group in GROUPS for name in _OF_GROUP),
    "train_energy", "train_hp_all", "train_type_all", "train_hp_ratio_all", "cpu_s",
)  # fmt: skip
SAMPLES = 64
GRU_SIZE, GRU_STEPS, GRU_BATCH = 128, 1200, 8  # teams' episodes in a batch, five sequences each


# ------------------------------------------------------------------------------------------------------------- data
@torch.no_grad()
def collect(behaviour: Path, types: str, episodes: int, seed: int) -> TensorDict:
    """Whole episodes of the stochastic policy, one after the other, as ``[N]`` steps.

    Keys: ``observation`` ``[N, n, k]`` (what is hidden left out), ``last_action`` ``[N, n]`` (-1 at the start),
    ``alive`` ``[N, n]``, ``seen`` ``[N, n, enemies]``, ``relative`` ``[N, n, d_t]``, ``absolute`` ``[N, d_s]``,
    ``step``, ``episode`` ``[N]``.
    """
    _, policy = load_policy(behaviour, num_envs=128)
    env = make_env(f"smax/{SCENARIO}", 128, aux=None, seed=seed, enemy_types=types, state_target="relative")
    layout = env.task.observation_layout
    hidden = set(layout.select(["enemy_*.health", "enemy_*.type"]).tolist())
    columns = torch.tensor([i for i in range(layout.size) if i not in hidden])
    enemies = torch.stack([layout.select(f"{name}.*") for name in layout.entities if name.startswith("enemy")])
    torch.manual_seed(seed)
    td, records, ends, ended = env.reset(), [], [], 0
    with set_exploration_type(ExplorationType.RANDOM), tqdm(total=episodes, desc=f"{types} episodes") as bar:
        while ended < episodes:
            records.append(record(td, columns, enemies))
            full, td = env.step_and_maybe_reset(policy(td))
            ends.append(full["next", "done"].flatten())
            ended += int(ends[-1].sum())
            bar.update(int(ends[-1].sum()))
    steps, done = torch.stack(records, 1), torch.stack(ends, 1)  # [B, T]
    pieces = []
    for battle, over in zip(steps, done):  # what has not ended is left out
        bounds = [0, *(over.nonzero().flatten() + 1).tolist()]
        pieces += [battle[a:b].set("episode", torch.zeros(b - a, dtype=torch.long)) for a, b in pairwise(bounds)]
    order = torch.randperm(len(pieces))[:episodes].tolist()  # the first ones are of all battles alike
    return torch.cat([pieces[i].set("episode", torch.full((len(pieces[i]),), k)) for k, i in enumerate(order)])


def record(td: TensorDict, columns: Tensor, enemies: Tensor) -> TensorDict:
    action = td[keys.LAST_ACTION]
    return TensorDict(
        {
            "observation": td[keys.OBSERVATION][..., columns],
            "seen": (td[keys.OBSERVATION][..., enemies] != 0).any(-1),  # the row of an enemy out of sight is all zero
            "last_action": torch.where(action.any(-1), action.argmax(-1), -1).to(torch.int8),
            "alive": td[keys.ACTIVE_MASK].squeeze(-1),
            "relative": td[keys.TARGET_STATE],
            "absolute": td[keys.STATE],
            "step": td[keys.STEP_COUNT].squeeze(-1),
        },
        td.batch_size,
    ).clone()  # the environment writes into what it gave


class Episodes:
    """Steps of whole episodes as :func:`collect` gives them, and any x of any of them."""

    def __init__(self, data: dict[str, Tensor]) -> None:
        one_hot = nn.functional.one_hot(data["last_action"].long() + 1, ACTIONS + 1)[..., 1:].float()
        self.frames = torch.cat([data["observation"], one_hot], -1)  # [N, n, f]
        self.observed, self.n = data["observation"].shape[-1], self.frames.shape[1]
        self.alive, self.seen, self.episode, self.step = (data[k] for k in ("alive", "seen", "episode", "step"))
        self.targets = {"relative": data["relative"], "absolute": data["absolute"]}
        self.first = torch.arange(len(self.step)) - self.step  # each episode's first step
        self.rows = self.alive.nonzero()  # [R, 2]: step, agent
        self.memory: Tensor | None = None  # [N, n, h], of the GRU

    def x(self, name: str, rows: Tensor) -> Tensor:
        """``[M, d_x]`` for rows ``[M, 2]`` (step, agent); the same as the environment's own ``aux_observation``."""
        steps, agents = rows.unbind(1)
        index = torch.eye(self.n)[agents]
        if name == "time":
            return (self.step[steps] / STEP_LIMIT).unsqueeze(1)
        if name == "gru":
            return torch.cat([self.memory[steps, agents], self.frames[steps, agents], index], 1)
        history, team, actions = AUX[name]
        others = (agents[:, None] + torch.arange(self.n if team else 1)) % self.n
        back = torch.maximum(steps[:, None] - torch.arange(history + 1), self.first[steps][:, None])
        frames = self.frames[back[:, None, :], others[:, :, None]]  # [M, team, history + 1, f]
        if not actions:
            frames = frames[..., : self.observed]
        frames = torch.cat([frames[:, :, :1], frames[:, :, :-1] - frames[:, :, 1:]], 2)
        return torch.cat([frames.flatten(1), index], 1)

    def target(self, name: str, rows: Tensor) -> Tensor:
        value = self.targets[name]
        return value[rows[:, 0]] if value.ndim == 2 else value[rows[:, 0], rows[:, 1]]

    def some(self, count: int, seed: int) -> Tensor:
        """Random rows, ``[count, 2]``."""
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))
        return self.rows[order[:count]]

    def until(self, episodes: int) -> Tensor:
        """The rows of the first episodes."""
        return self.rows[self.episode[self.rows[:, 0]] < episodes]


# -------------------------------------------------------------------------------------------------------------- gru
class Gru(nn.Module):
    """A GRU over an agent's whole episode of own observations, actions and id, and a head for the target."""

    def __init__(self, size: int, target: int) -> None:
        super().__init__()
        self.gru = nn.GRU(size, GRU_SIZE, batch_first=True)
        self.head = nn.Sequential(nn.Linear(GRU_SIZE + size, 256), nn.SiLU(), nn.Linear(256, target))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.gru(frames)[0]
        return memory, self.head(torch.cat([memory, frames], -1))


def sequences(data: Episodes, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Padded frames with the id ``[e * n, T, f + n]``, targets, mask of the living ``[e * n, T]``, steps of each."""
    spans = [(data.episode == i).nonzero().flatten() for i in chosen.tolist()]
    steps = pad_sequence(spans, batch_first=True, padding_value=-1)  # [e, T]
    frames = data.frames[steps].transpose(1, 2).flatten(0, 1)
    index = torch.eye(data.n).repeat(len(spans), 1)[:, None].expand(-1, frames.shape[1], -1)
    target = data.targets["relative"][steps].transpose(1, 2).flatten(0, 1)
    mask = (data.alive[steps] & (steps >= 0)[..., None]).transpose(1, 2).flatten(0, 1)
    return torch.cat([frames, index], -1), target, mask, spans


def train_gru(data: Episodes, episodes: int, seed: int) -> Gru:
    torch.manual_seed(seed)
    rows = data.until(episodes)
    target = data.target("relative", rows)
    mean, scale = target.mean(0), target.std(0).clamp(min=1e-6)
    model = Gru(data.frames.shape[-1] + data.n, target.shape[-1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    for step in tqdm(range(GRU_STEPS), desc="gru", leave=False):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, GRU_STEPS, 2e-3)
        frames, truth, mask, _ = sequences(data, torch.randint(episodes, (GRU_BATCH,)))
        error = (model(frames)[1] - (truth - mean) / scale).square().mean(-1)
        loss = (error * mask).sum() / mask.sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model


@torch.no_grad()
def remember(model: Gru, data: Episodes) -> None:
    """Write the GRU's memory of every step into ``data``."""
    data.memory = torch.zeros(*data.frames.shape[:2], GRU_SIZE)
    for chosen in data.episode.unique().split(64):
        frames, _, _, spans = sequences(data, chosen)
        memory = model.gru(frames)[0].unflatten(0, (len(spans), data.n)).transpose(1, 2)
        for steps, value in zip(spans, memory):
            data.memory[steps] = value[: len(steps)]


# ------------------------------------------------------------------------------------------------------------ cells
def fit_on(model, data: Episodes, cell: dict, rows: Tensor, batch: int) -> None:
    """As :func:`globediff_torchrl.fit`, but x is built batch by batch: whole, the joint history would take 17 GB."""

    def pairs(some: Tensor) -> tuple[Tensor, Tensor]:
        return data.x(cell["x"], some), data.target(cell["target"], some)

    torch.manual_seed(cell["seed"])
    measured = None
    if cell["inferer"].endswith("held-out"):
        apart = data.episode[rows[:, 0]] >= 0.9 * cell["episodes"]
        rows, measured = rows[~apart], rows[apart]
    fitter = Fitter(model)
    peak = fitter.optimizer.param_groups[0]["lr"]
    spread = rows[torch.randperm(len(rows))[:16_384]]
    fitter.set_statistics(*pairs(spread))
    lead = round(CENTER_SHARE * cell["steps"]) if model.centred else 0
    for step in tqdm(range(cell["steps"]), desc=f"{cell['x']} {cell['inferer']}", leave=False, mininterval=2):
        if model.centred and step == lead:
            fitter.update_residual_scale(*pairs(spread))
        x, s = pairs(rows[torch.randint(len(rows), (batch,))])
        pair = TensorDict({model.aux_key: x.unsqueeze(1), model.state_key: s}, [len(x)])
        fitter.step(pair, learning_rate(step, cell["steps"], peak), center_only=step < lead)
    fitter.update_final_scale(*pairs(spread if measured is None else measured[torch.randperm(len(measured))[:16_384]]))


@torch.no_grad()
def infer(model, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean estimate ``[M, d]`` and samples ``[M, S, d]`` (None of a regressor)."""
    with set_exploration_type(ExplorationType.RANDOM):
        parts = [model(TensorDict({model.aux_key: some.unsqueeze(1)}, [len(some)])) for some in x.split(256)]
    mean = (
        torch.cat([part[keys.INFERRED_MEAN][:, 0] for part in parts])
        if keys.INFERRED_MEAN in parts[0].keys(True)
        else None
    )
    if keys.HYPOTHESES not in parts[0].keys(True):
        return mean, None
    samples = torch.cat([part[keys.HYPOTHESES][:, 0] for part in parts])
    return (samples.mean(1) if mean is None else mean), samples


def judge(model, data: Episodes, cell: dict, rows: Tensor) -> dict[str, float]:
    """The cell's figures on some rows; ``_seen`` and ``_unseen`` by the agent itself, now."""
    torch.manual_seed(cell["seed"] + 1)
    truth = data.target(cell["target"], rows)
    center, samples = infer(model, data.x(cell["x"], rows))
    layout = LAYOUTS[cell["target"]]
    hp, kind = layout.select("enemy_*.health"), layout.select("enemy_*.type").view(UNITS, -1)
    scale = truth.std(0).clamp(min=0.05)  # a type that hardly occurs in these rows must not outweigh all
    hidden = torch.cat([hp, kind.flatten()])
    points = center.unsqueeze(1) if samples is None else samples
    out = {"energy": energy_score((points / scale)[..., hidden], (truth / scale)[:, hidden])}
    alive = truth[:, kind].sum(-1) > 0.5  # [M, enemies]
    seen = data.seen[rows[:, 0], rows[:, 1]]
    episode = data.episode[rows[:, 0]][:, None].expand_as(alive)
    mean = center if samples is None else samples.mean(1)
    health = if_alive(mean, hp, kind)
    for name, group in (("all", torch.ones_like(seen)), ("seen", seen), ("unseen", ~seen)):
        mask = alive & group
        t, e, t_kind, e_kind = truth[:, hp][mask], health[mask], truth[:, kind][mask], mean[:, kind][mask]
        hurt = t < 0.999
        out |= {f"hp_{name}": r_squared(e, t), f"hurt_{name}": r_squared(e[hurt], t[hurt])}
        out |= {f"type_{name}": accuracy(e_kind, t_kind), f"hp_se_{name}": r_squared_error(e, t, episode[mask])}
        hit = (e_kind.argmax(-1) == t_kind.argmax(-1)).double()
        terms = torch.stack([hit, torch.ones_like(hit)], -1)
        out[f"type_se_{name}"] = episode_error(terms, episode[mask], lambda s: s[:, 0] / s[:, 1])
        if samples is not None:
            out[f"hp_center_{name}"] = r_squared(if_alive(center, hp, kind)[mask], t)
            out |= calibration(name, samples[..., hp], samples[..., kind], truth[:, hp], truth[:, kind], group)
    return out


def if_alive(estimate: Tensor, hp: Tensor, kind: Tensor) -> Tensor:
    """Health if the enemy lives, ``[M, enemies]``: E[h | x, alive] = E[h | x] / P(alive | x), as the dead have none.

    An enemy out of sight may be dead for all that x tells; the types' sum is the estimate of whether it lives.
    """
    return (estimate[:, hp] / estimate[:, kind].sum(-1).clamp(min=0.05)).clamp(0, 1)


def calibration(
    name: str, health: Tensor, kind: Tensor, true_health: Tensor, true_kind: Tensor, group: Tensor
) -> dict[str, float]:
    """Of samples ``[M, S, enemies, ...]`` in a group that x decides: the dead, who have zeros, are among the unseen.

    Chosen by what is true, e.g. among the living alone, exact posterior samples would not be calibrated either.
    """
    drawn, drawn_kind = health.transpose(1, 2)[group], kind.transpose(1, 2)[group]  # [L, S], [L, S, types]
    t, t_kind = true_health[group], true_kind[group]
    return {
        f"hp_ratio_{name}": spread_over_error(drawn, t),
        f"type_ratio_{name}": spread_over_error(drawn_kind, t_kind),
        f"hp_cover_{name}": coverage(drawn, t),
        f"type_cover_{name}": coverage(drawn_kind, t_kind),
        f"hp_sample_{name}": r_squared(drawn[:, 0], t),
        f"hp_mean_{name}": r_squared(drawn.mean(1), t),
    }


def run(cell: dict, data: dict[str, Episodes], args) -> dict:
    start = time.process_time()
    torch.manual_seed(cell["seed"])
    rows = data["train"].until(cell["episodes"])
    name, settings = INFERERS[cell["inferer"]]
    if name == "globediff":
        settings = {**settings, "num_samples": SAMPLES}
    sizes = data["train"].x(cell["x"], rows[:1]).shape[1], data["train"].target(cell["target"], rows[:1]).shape[1]
    model = make_state_model(name, sizes, **settings)
    fit_on(model, data["train"], cell, rows, args.batch)
    row = {**cell, "d_x": sizes[0], **judge(model, data["test"], cell, data["test"].some(args.rows, 0))}
    few = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: args.rows // 2]]
    trained = judge(model, data["train"], cell, few)
    row |= {f"train_{k}": v for k, v in trained.items() if k in ("energy", "hp_all", "type_all", "hp_ratio_all")}
    return {**row, "cpu_s": round(time.process_time() - start, 1)}


# ------------------------------------------------------------------------------------------------------------ study
def load(args, types: str) -> dict[str, Episodes]:
    """The episodes to fit on and to judge on, collected where they are not on disk."""
    total = args.collect + args.collect // 5
    path = args.output / f"{types}-{total}.pt"
    if not path.exists():
        torch.save(collect(args.behaviour, types, total, seed=100).to_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    raw = torch.load(path, weights_only=True)
    kept = raw["episode"] < args.collect
    return {name: Episodes({k: v[m] for k, v in raw.items()}) for name, m in (("train", kept), ("test", ~kept))}


def give_memory(args, data: dict[str, Episodes], cell: dict) -> None:
    """The GRU's memory of every step, by the one that was fitted to this cell's episodes with this seed."""
    path = args.output / f"gru-{cell['types']}-{args.collect}-{cell['episodes']}-{GRU_STEPS}-{cell['seed']}.pt"
    if path.exists():
        model = Gru(data["train"].frames.shape[-1] + UNITS, LAYOUTS["relative"].size)
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        model = train_gru(data["train"], cell["episodes"], cell["seed"])
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
                    values = (types, x, inferer, args.target, episodes, args.steps, args.seed)
                    chosen.append(dict(zip(KEY, values)))
    return chosen


def done_cells(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def append(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


def table(path: Path) -> None:
    """The CSV as a markdown table: seen | unseen in each entry."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = ("hp", "hurt", "type", "hp_ratio", "type_ratio", "hp_cover", "type_cover")
    print("| " + " | ".join([*KEY, *pairs, "energy", "hp train", "hp all"]) + " |")
    print("|" + "---|" * (len(KEY) + len(pairs) + 3))
    for row in rows:
        numbers = [[row[f"{name}_{group}"] for group in ("seen", "unseen")] for name in pairs]
        entries = [" / ".join(f"{float(v):.2f}" for v in two if v) for two in numbers]
        last = [f"{float(row[name]):.2f}" for name in ("energy", "train_hp_all", "hp_all")]
        print("| " + " | ".join([*(row[k] for k in KEY), *entries, *last]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviour", type=Path, default=Path("runs/inferability/behaviour"), help="run of a policy")
    parser.add_argument("--output", type=Path, default=Path("runs/inferability"))
    parser.add_argument("--collect", type=int, default=3000, help="episodes to fit on; a fifth as many to judge on")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--x", nargs="+", choices=AUX, default=tuple(AUX))
    parser.add_argument("--inferers", nargs="+", choices=INFERERS, default=("regressor", "fast", "tuned"))
    parser.add_argument("--target", choices=LAYOUTS, default="relative")
    parser.add_argument("--episodes", nargs="+", type=int, help="fit on the first of those collected alone")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rows", type=int, default=3000, help="to judge on: (step, living agent)")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--table", action="store_true", help="print what is in the CSV, and end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.output / "cells.csv"
    if args.table:
        return table(path)
    args.output.mkdir(parents=True, exist_ok=True)
    done = done_cells(path)
    left = [cell for cell in cells(args) if tuple(str(cell[name]) for name in KEY) not in done]
    data, held = {}, None
    for cell in tqdm(left, desc="cells"):
        if held != cell["types"]:
            data = {}  # one sort of battles in memory at a time
            data, held = load(args, cell["types"]), cell["types"]
        if cell["x"] == "gru":
            give_memory(args, data, cell)
        append(path, run(cell, data, args))


if __name__ == "__main__":
    main()
