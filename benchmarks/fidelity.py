"""Does a state model return the true p(s | x)? Three problems whose answer is known exactly.

    python benchmarks/fidelity.py --quick      # one seed, the main rows, about half an hour on one core
    python benchmarks/fidelity.py              # 3 seeds, all rows

For each problem, model and seed: energy distance (unbiased, 0 for exact samples) and squared Wasserstein-2 a
dimension, of samples against exact ones for given x, averaged over x, in units of spread. `share` is that energy
distance as a percentage of the regressor's, same problem and seed. Interrupted runs go on where they stopped: a row
that is in the CSV is not run again.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from tensordict import TensorDict
from tqdm import tqdm

from globediff_torchrl.evaluation.distances import energy_distance, wasserstein2
from globediff_torchrl.evaluation.known_posteriors import PROBLEMS
from globediff_torchrl.state_models import GlobeDiff, MLPStateModel, StateModel, VAEStateModel, fit

AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")
FIELDS = ["problem", "model", "seed", "steps", "energy", "w2", "share", "kl", "active_units", "train_s", "sample_ms"]


def _variants() -> dict[str, tuple[type[StateModel], dict]]:
    """Name -> (class, arguments). What a user gets without asking: tuned-K5, and fast-K1."""
    rows: dict[str, tuple[type[StateModel], dict]] = {"regressor": (MLPStateModel, {})}
    rows["tuned-K5"] = (GlobeDiff, {})
    rows["fast-K1"] = (GlobeDiff, {"preset": "fast"})
    rows["paper-K5"] = (GlobeDiff, {"preset": "paper"})
    rows["printed-K5"] = (GlobeDiff, {"preset": "paper"})  # the paper's, sampled with Eq. 11 as it is printed
    rows["vae"] = (VAEStateModel, {})
    for steps in (1, 2, 3, 10):
        rows[f"tuned-K{steps}"] = (GlobeDiff, {"diffusion_steps": steps})
    for steps in (1, 2, 3, 5, 10):
        rows[f"tuned-K{steps}-no-z"] = (GlobeDiff, {"diffusion_steps": steps, "latent_dim": 0})
    rows["tuned-K5-no-prior"] = (GlobeDiff, {"latent_prior": "standard"})
    rows["tuned-K5-no-center"] = (GlobeDiff, {"center": "none"})
    rows["fast-K2"] = (GlobeDiff, {"preset": "fast", "diffusion_steps": 2})
    return rows


QUICK = ("regressor", "tuned-K5", "fast-K1", "paper-K5", "printed-K5")


def dataset(problem, rows: int, seed: int) -> TensorDict:
    """``rows`` pairs (x, s) as fit reads them."""
    g = torch.Generator().manual_seed(1000 * seed + 1)
    x = problem.draw_aux(rows, g)
    return TensorDict({AUX: x[:, None], "state": problem.draw_state(x, g)}, [rows])


class AsPrinted:
    """Eq. 11 as the paper prints it: alpha^k where alpha-bar^k belongs, and noise at the last step too."""

    def __init__(self, model: GlobeDiff):
        self.schedule = model.schedule

    def __call__(self, denoise, start: torch.Tensor, stochastic: bool = True) -> torch.Tensor:
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


def run(problem_name: str, name: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and judge one row."""
    problem = PROBLEMS[problem_name]()
    kind, settings = _variants()[name]
    torch.manual_seed(seed)
    model = kind(problem.aux_dim, problem.state_dim, **settings)
    start = time.process_time()
    history = fit(model, dataset(problem, args.rows, seed), steps=args.steps, seed=seed, progress=False)
    row = {"problem": problem_name, "model": name, "seed": seed, "steps": args.steps}
    row["train_s"] = round(time.process_time() - start, 1)
    if name.startswith("printed"):
        model.sampler = AsPrinted(model)
    row |= judge(problem, model, seed, args.contexts, args.draws)
    return row | {term: history[term][-1] for term in ("kl", "active_units") if term in history}


def _read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict]) -> None:
    """All rows, with the share of the regressor's energy distance where that is known."""
    base = {(r["problem"], str(r["seed"])): float(r["energy"]) for r in rows if r["model"] == "regressor"}
    for row in rows:
        reference = base.get((row["problem"], str(row["seed"])))
        row["share"] = "" if reference is None else round(100 * float(row["energy"]) / reference, 2)
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def _print_table(rows: list[dict]) -> None:
    """Mean share of the seeds, one line a model."""
    problems = list(dict.fromkeys(r["problem"] for r in rows))
    print(f"\n{'energy distance, % of the regressor':<36}" + "".join(f"{p:>12}" for p in problems))
    for model in dict.fromkeys(r["model"] for r in rows):
        cells = []
        for problem in problems:
            shares = [
                float(r["share"]) for r in rows if (r["model"], r["problem"]) == (model, problem) and r["share"] != ""
            ]
            cells.append(f"{sum(shares) / len(shares):>12.2f}" if shares else f"{'-':>12}")
        print(f"{model:<36}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"seed 0 and {', '.join(QUICK)} only")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--models", nargs="+", choices=list(_variants()), default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="default 0 1 2")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps of fit (its default)")
    parser.add_argument("--rows", type=int, default=60_000, help="training pairs")
    parser.add_argument("--contexts", type=int, default=64, help="values of x to judge at")
    parser.add_argument("--draws", type=int, default=192, help="samples for each")
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity.csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.models or (list(QUICK) if args.quick else list(_variants()))
    seeds = args.seeds if args.seeds is not None else ([0] if args.quick else [0, 1, 2])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = _read(args.out)
    done = {(r["problem"], r["model"], int(r["seed"]), int(r["steps"])) for r in rows}
    # the regressor first: the others are reported as a share of it
    plan = [(p, m, s) for m in dict.fromkeys(["regressor", *names]) for s in seeds for p in args.problems]
    for problem, name, seed in tqdm([key for key in plan if (*key, args.steps) not in done]):
        rows.append(run(problem, name, seed, args))
        _write(args.out, rows)
    _print_table([r for r in rows if int(r["steps"]) == args.steps])


if __name__ == "__main__":
    main()
