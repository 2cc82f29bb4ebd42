"""How right is the inferred state on fresh episodes of a trained policy?

    python benchmarks/inference.py runs/bracket/hunt/globediff/seed0 runs/bracket/gates/globediff/seed0

For each run: the error of s_hat as a share of the mean state's (1), beside a linear regression from x and an MLP, both
fitted on other episodes of the same policy; on the hidden part of the state alone the energy score (lower is better,
units of the standard deviation), the energy distance between what was inferred and what was true, and the calibration
spread / error (1: the samples are as far apart as the truth is from their mean). Writes a CSV, run by run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from tensordict import TensorDict
from torch import Tensor
from tqdm import tqdm

from globediff_torchrl import GlobeDiff, fit, keys, load_policy, make_state_model
from globediff_torchrl.errors import UserError, ends_program
from globediff_torchrl.evaluation.episodes import run_episodes
from globediff_torchrl.evaluation.relative_error import relative_error
from globediff_torchrl.state_models.numerics import statistics
from globediff_torchrl.studies.distances import energy_distance
from globediff_torchrl.studies.inferability import energy_score, spread_over_error
from globediff_torchrl.studies.measurements import markdown_table
from globediff_torchrl.tables import read_rows, write_rows

HIDDEN = {  # features of the state that no agent observes
    "vmas/hunt": ["target.*"],
    "vmas/trilateration": ["goal*"],
    "vmas/gates": ["team.bits"],
    "vmas/sonar": ["source.*"],
    "vmas/mirror": ["goal*"],
    "vmas/relay": ["goal*"],
    "vmas/compass": ["team.*", "agent_*.velocity"],
}
COLUMNS = (
    "env", "algorithm", "seed", "what", "error", "hidden_error", "energy_score", "energy_distance", "spread_over_error",
)  # fmt: skip


def share(estimate: Tensor, state: Tensor, columns: Tensor) -> float:
    """Squared error in units of the variance, mean over the given columns that vary. ``[M, d_s]`` each."""
    error = relative_error(estimate[:, None, columns], state[:, None, columns])
    return float("nan") if error is None else error


def scores(hypotheses: Tensor, state: Tensor, columns: Tensor, episode: Tensor) -> dict[str, float | str]:
    """Energy score, energy distance and calibration of ``hypotheses [M, S, d_s]``, in the spread of those of
    ``columns`` that vary; the rows of one ``episode`` ``[M]`` are not compared with each other in the distance."""
    _, _, constant = statistics(state)
    columns = columns[~constant[columns]]
    scale = state[:, columns].std(0)
    samples, truth = hypotheses[..., columns] / scale, state[:, columns] / scale
    return {
        "energy_score": energy_score(samples, truth),
        "energy_distance": float(energy_distance(samples[:, 0], truth, episode)),
        "spread_over_error": spread_over_error(samples, truth) if samples.shape[1] > 1 else "",
    }


def linear_fit(x: Tensor, s: Tensor) -> Tensor:
    """Least squares with an intercept and a little ridge, ``[d_x + 1, d_s]``."""
    rows = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    gram = rows.T @ rows + 1e-4 * len(x) * torch.eye(rows.shape[1])
    return torch.linalg.solve(gram, rows.T @ s.double()).float()


def rollout(policy, env, seed: int) -> TensorDict:
    """x ``[M, n, d_x]`` and s ``[M, d_s]`` on fresh episodes of the policy."""
    data = run_episodes(env, policy, "stochastic", seed, env.task.max_steps)
    return data.reshape(-1).select(keys.AUX_OBSERVATION, keys.STATE)


@torch.no_grad()
def infer(model: GlobeDiff, data: TensorDict, samples: int) -> Tensor:
    """Hypotheses of the first agent, ``[M, S, d_s]``, by the same model with S samples an x."""
    many = model.with_arguments(num_samples=samples)
    return many(data.select(keys.AUX_OBSERVATION))[keys.HYPOTHESES][:, 0]


def measure(run: Path, episodes: int, samples: int, hidden: list[str] | None) -> list[dict]:
    env, policy = load_policy(run, num_envs=episodes, seed=20_000)
    model = policy[0]
    hidden = hidden or HIDDEN.get(env.task.name)
    if hidden is None:
        names = ", ".join(env.task.state_layout.names)
        raise UserError(f"--hidden expects what no agent sees of {env.task.name}'s state, some of: {names}.")
    columns = {"all": torch.arange(model.state_dim), "hidden": env.task.state_layout.select(hidden)}
    others, fresh = rollout(policy, env, 20_000), rollout(policy, env, 30_000)
    episode = torch.arange(episodes).repeat_interleave(len(fresh) // episodes)  # whatever an environment played
    x, s = fresh[keys.AUX_OBSERVATION], fresh[keys.STATE]
    hypotheses = infer(model, fresh, samples)
    weights = linear_fit(others[keys.AUX_OBSERVATION][:, 0], others[keys.STATE])
    regressor = make_state_model("regressor", env)
    fit(regressor, others, steps=3000, seed=0, progress=False)
    with torch.no_grad():
        regressed = regressor(fresh.select(keys.AUX_OBSERVATION))[keys.INFERRED_STATE][:, 0]
    estimates = {
        "mean state": others[keys.STATE].mean(0).expand_as(s),
        "linear regression from x": torch.cat([x[:, 0], torch.ones(len(x), 1)], 1) @ weights,
        "MLP from x": regressed,
        "GlobeDiff, one sample": hypotheses[:, 0],
        f"GlobeDiff, mean of {samples}": hypotheses.mean(1),
    }
    rows = []
    for name, estimate in estimates.items():
        row = {"env": env.task.name, "algorithm": run.resolve().parent.name, "seed": run.name, "what": name}
        row["error"] = share(estimate, s, columns["all"])
        row["hidden_error"] = share(estimate, s, columns["hidden"])
        drawn = hypotheses if name == "GlobeDiff, one sample" else estimate.unsqueeze(1)
        row |= scores(drawn, s, columns["hidden"], episode)
        rows.append(row)
    return rows


def whose(row: dict) -> tuple[str, str, str]:
    """Of which run a row is. Files of before name no algorithm: all there was in them is globediff."""
    return row["env"], row.get("algorithm") or "globediff", row["seed"]


@ends_program()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of runs of a GlobeDiff policy")
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16, help="hypotheses an x")
    parser.add_argument(
        "--hidden", nargs="+", help="features of the state that are scored apart (default: the preset's)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/inference.csv"), help="its other rows stay")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = read_rows(arguments.output)
    for run in tqdm(arguments.runs):
        new = measure(run, arguments.episodes, arguments.samples, arguments.hidden)
        same = {whose(row) for row in new}
        rows = [row for row in rows if whose(row) not in same] + new
        write_rows(arguments.output, COLUMNS, rows, digits=4)
    numbers = [[f"{float(row[name]):.3f}" if row[name] != "" else "" for name in COLUMNS[4:]] for row in rows]
    print(markdown_table(COLUMNS, ([*whose(row), row["what"], *n] for row, n in zip(rows, numbers))))


if __name__ == "__main__":
    main()
