"""Does a state model return the true p(s | x)? Three problems whose answer is known exactly.

    python benchmarks/fidelity.py --quick      # one seed, the main rows, about half an hour on one core
    python benchmarks/fidelity.py              # 3 seeds, all rows, the most informative first

For each problem, model and seed: energy distance (unbiased, 0 for exact samples) and squared Wasserstein-2 a
dimension, of samples against exact ones for given x, averaged over x, in units of spread. `share` is that energy
distance as a percentage of the regressor's, same problem and seed, after as many steps or, where there is none, after
the fewest. Interrupted runs go on where they stopped: a row that is in the CSV with the same number of steps is not
run again.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from tensordict import TensorDict
from torch import nn
from tqdm import tqdm

from globediff_torchrl.state_models import GlobeDiff, MLPStateModel, StateModel, VAEStateModel, fit
from globediff_torchrl.state_models.sampler import DiffusionSampler
from globediff_torchrl.studies.distances import energy_distance, wasserstein2
from globediff_torchrl.studies.known_posteriors import PROBLEMS
from globediff_torchrl.tables import read_rows, write_rows

AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")
FIELDS = ["problem", "model", "seed", "steps", "energy", "w2", "share", "kl", "active_units", "train_s", "sample_ms"]


def _variants() -> dict[str, tuple[type[StateModel], dict]]:
    """Name -> (class, arguments). Without asking one gets: of the class tuned-K5, of the scripts fast-K1-w128."""
    rows: dict[str, tuple[type[StateModel], dict]] = {"regressor": (MLPStateModel, {})}
    rows["tuned-K5"] = (GlobeDiff, {})
    rows["fast-K1"] = (GlobeDiff, {"preset": "fast"})
    rows["paper-K5"] = (GlobeDiff, {"preset": "paper"})
    rows["paper-K5-posterior"] = rows["paper-K5"]  # the same trained model, sampled with the posterior's variance
    rows["printed-K5"] = rows["paper-K5"]  # the same again, sampled with Eq. 11 as it is printed
    rows["paper-K5-entity"] = (GlobeDiff, {"preset": "paper", "tokens": "entity"})  # where a problem has units
    rows["paper-K5-entity-posterior"] = rows["paper-K5-entity"]
    rows["paper-K5-summed"] = (GlobeDiff, {"preset": "paper", "beta_kl": 0.1})  # beside the sum over dims of Eq. 10
    rows["vae"] = (VAEStateModel, {})
    for steps in (1, 2, 3, 10):
        rows[f"tuned-K{steps}"] = (GlobeDiff, {"diffusion_steps": steps})
    for steps in (1, 2, 3, 5, 10):
        rows[f"tuned-K{steps}-no-z"] = (GlobeDiff, {"diffusion_steps": steps, "latent_dim": 0})
    rows["tuned-K5-no-prior"] = (GlobeDiff, {"latent_prior": "standard"})
    rows["tuned-K5-no-center"] = (GlobeDiff, {"center": "none"})
    rows["fast-K1-w128"] = (GlobeDiff, {"preset": "fast", "width": 128})  # configs/algorithm/globediff.yaml
    rows["fast-K2"] = (GlobeDiff, {"preset": "fast", "diffusion_steps": 2})
    rows["fast-K1-one-gaussian"] = (GlobeDiff, {"preset": "fast", "latent_modes": 1})  # the prior of Eq. 3
    rows["fast-K1-no-z"] = (GlobeDiff, {"preset": "fast", "latent_dim": 0})
    return rows


# in the order in which they are run, each for all seeds before the next: what answers the question comes first
DEFAULTS, PAPER = ("regressor", "tuned-K5", "fast-K1", "fast-K1-w128"), ("paper-K5", "paper-K5-posterior", "printed-K5")
TIERS = (DEFAULTS, PAPER, tuple(_variants()))
QUICK = DEFAULTS + PAPER
FIT_OF = {  # rows that are another row's trained model, sampled by another reverse process
    "paper-K5-posterior": "paper-K5", "printed-K5": "paper-K5", "paper-K5-entity-posterior": "paper-K5-entity"
}  # fmt: skip
WITH_UNITS = [name for name, problem in PROBLEMS.items() if hasattr(problem, "tokens")]


def dataset(problem, rows: int, seed: int) -> TensorDict:
    """``rows`` pairs (x, s) as fit reads them."""
    g = torch.Generator().manual_seed(1000 * seed + 1)
    x = problem.draw_aux(rows, g)
    return TensorDict({AUX: x[:, None], "state": problem.draw_state(x, g)}, [rows])


class AsPrinted(nn.Module):
    """Eq. 11 as the paper prints it: alpha^k where alpha-bar^k belongs, and noise at the last step too."""

    def __init__(self, model: GlobeDiff):
        super().__init__()
        self.schedule = model.schedule

    def forward(self, denoise: Callable, start: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        s = start
        for k in range(self.schedule.steps, 0, -1):
            alpha, beta = self.schedule.alpha[k], self.schedule.beta[k]
            s = (s - beta / (1 - alpha).sqrt() * denoise(s, k)) / alpha.sqrt()
            s = s + beta.sqrt() * torch.randn_like(s)
        return s


@torch.no_grad()
def judge(problem, model: StateModel, seed: int, contexts: int, draws: int) -> dict[str, float]:
    """Energy distance and W2 of ``draws`` samples for each of ``contexts`` values of x."""
    g = torch.Generator().manual_seed(1000 * seed + 2)
    x = problem.draw_aux(contexts, g).repeat_interleave(draws, 0)
    exact = problem.draw_state(x, g)
    spread = problem.draw_state(problem.draw_aux(20_000, g), g).std(0)
    spread[spread < 1e-6] = 1.0
    torch.manual_seed(seed)
    start = time.perf_counter()
    samples = model(TensorDict({AUX: x[:, None]}, [len(x)]))[INFERRED][:, 0]
    elapsed = time.perf_counter() - start
    a, b = ((s / spread).view(contexts, draws, -1) for s in (samples, exact))
    few = min(contexts, 16)  # exact transport is cubic in the number of samples
    return {
        "energy": energy_distance(a, b).mean().item(),
        "w2": wasserstein2(a[:few], b[:few]).mean().item(),
        "sample_ms": 1e3 * elapsed * 128 / len(x),
    }


def steps_of(name: str, args: argparse.Namespace) -> int:
    """Optimiser steps of a row: what was asked for, the U-Net rows have their own number; else the preset's."""
    kind, settings = _variants()[name]
    given = args.paper_steps if settings.get("preset") == "paper" else args.steps
    without = {key: value for key, value in settings.items() if key != "tokens"}  # there are no units in one dim
    return given or kind(1, 1, **without).fit_defaults()["steps"]


def run(problem_name: str, name: str, seed: int, args: argparse.Namespace) -> list[dict]:
    """Train and judge one row; the paper's model is judged with its other reverse processes, too."""
    problem = PROBLEMS[problem_name]()
    name = FIT_OF.get(name, name)
    kind, settings = _variants()[name]
    if name == "paper-K5-summed":  # the loss has the mean over the dims of s
        settings = {**settings, "beta_kl": settings["beta_kl"] / problem.state_dim}
    units = {"token_index": problem.tokens()} if "tokens" in settings else {}
    torch.manual_seed(seed)
    model = kind(problem.aux_dim, problem.state_dim, **settings, **units)
    start = time.process_time()
    steps = steps_of(name, args)
    history = fit(model, dataset(problem, args.rows, seed), steps=steps, seed=seed, progress=False)
    common = {"problem": problem_name, "seed": seed, "steps": steps, "train_s": round(time.process_time() - start, 1)}
    common |= {term: history[term][-1] for term in ("kl", "active_units") if term in history}
    judged = {name: model}
    for other in (row for row, source in FIT_OF.items() if source == name):
        judged[other] = copy.deepcopy(model)
        printed = other == "printed-K5"
        judged[other].sampler = AsPrinted(model) if printed else DiffusionSampler(model.schedule, "ancestral", "eps")
    return [
        {**common, "model": label, **judge(problem, one, seed, args.contexts, args.draws)}
        for label, one in judged.items()
    ]


def _key(row: dict) -> tuple[str, str, int, int]:
    """What makes a row that of one run."""
    return row["problem"], row["model"], int(row["seed"]), int(row["steps"])


def _write(path: Path, rows: list[dict]) -> None:
    """All rows, with the share of the regressor's energy distance where that is known."""
    base: dict[tuple[str, str], dict[int, float]] = {}  # energy by steps
    for row in rows:
        if row["model"] == "regressor":
            base.setdefault((row["problem"], str(row["seed"])), {})[int(row["steps"])] = float(row["energy"])
    for row in rows:
        known = base.get((row["problem"], str(row["seed"])))
        # one fitted longer, for other rows of the same file, leaves this share as it was
        reference = known and known.get(int(row["steps"]), known[min(known)])
        row["share"] = round(100 * float(row["energy"]) / reference, 2) if reference else ""
    write_rows(path, FIELDS, rows)


def _print_table(rows: list[dict]) -> None:
    """Mean share of the seeds and their range, one line for each model and number of steps."""
    problems = list(dict.fromkeys(r["problem"] for r in rows))
    print(f"\n{'energy distance, % of the regressor':<36}{'steps':>6}" + "".join(f"{p:>28}" for p in problems))
    for model, steps in dict.fromkeys((r["model"], int(r["steps"])) for r in rows):
        cells = []
        for problem in problems:
            same = [r for r in rows if (r["model"], int(r["steps"]), r["problem"]) == (model, steps, problem)]
            shares = [float(r["share"]) for r in same if r["share"] != ""]
            cells.append(_cell(shares))
        print(f"{model:<36}{steps:>6}" + "".join(f"{cell:>28}" for cell in cells))


def _cell(shares: list[float]) -> str:
    """Mean (lowest to highest), number of seeds."""
    if not shares:
        return "-"
    return f"{sum(shares) / len(shares):.2f} ({min(shares):.2f}-{max(shares):.2f}) n={len(shares)}"


def _plan(names: list[str], seeds: list[int], problems: list[str]) -> list[tuple[str, str, int]]:
    """(problem, model, seed): tier by tier, then seed by seed; the regressor first, as the rest is a share of it."""
    order = []
    for tier in TIERS:
        chosen = [name for name in tier if name == "regressor" or name in names]
        order += [(problem, name, seed) for seed in seeds for name in chosen for problem in problems]
    variants = _variants()
    return [row for row in dict.fromkeys(order) if "tokens" not in variants[row[1]][1] or row[0] in WITH_UNITS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"seed 0 and {', '.join(QUICK)} only")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--models", nargs="+", choices=list(_variants()), default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="default 0 1 2")
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps of fit (default: the preset's)")
    parser.add_argument("--paper-steps", type=int, default=None, help="the same for the rows with the paper's U-Net")
    parser.add_argument("--rows", type=int, default=60_000, help="training pairs")
    parser.add_argument("--contexts", type=int, default=64, help="values of x to judge at")
    parser.add_argument("--draws", type=int, default=192, help="samples for each")
    parser.add_argument("--output", type=Path, default=Path("runs/fidelity.csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.models or (list(QUICK) if args.quick else list(_variants()))
    seeds = args.seeds if args.seeds is not None else ([0] if args.quick else [0, 1, 2])
    rows: list[dict] = read_rows(args.output)
    for problem, name, seed in tqdm(_plan(names, seeds, args.problems)):
        if (problem, name, seed, steps_of(name, args)) not in map(_key, rows):
            # one fit of the paper's model gives several rows
            new = run(problem, name, seed, args)
            rows += [row for row in new if _key(row) not in map(_key, rows)]
            _write(args.output, rows)
    _print_table(rows)


if __name__ == "__main__":
    main()
