"""Which part of the inferred state does a trained policy act on?

    python benchmarks/parts.py runs/bracket_smax/smacv2_5_units/globediff/seed0 --parts "enemy_*.health" "enemy_*.type"

Lets a run's own policy play fresh episodes (sampled actions) while one part of s_hat is exchanged: for the truth, or
for what the same agent infers in another environment at that moment, which says nothing of this one. Beside it the
same for the whole state, and the policy as it is. Writes a CSV as it goes and skips what it has.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from tensordict.nn import TensorDictSequential
from tqdm import tqdm

from globediff_torchrl import load_policy
from globediff_torchrl.errors import UserError, ends_program
from globediff_torchrl.evaluation.episodes import evaluate
from globediff_torchrl.state_models import StateModel
from globediff_torchrl.studies.measurements import markdown_table
from globediff_torchrl.studies.parts import EXCHANGES, ExchangePart
from globediff_torchrl.studies.statistics import bootstrap_interval
from globediff_torchrl.tables import read_rows, write_rows

COLUMNS = ("run", "part", "by", "episodes", "return", "success")
HEADER = (
    "algorithm", "part", "exchanged for", "episodes", "runs", "return", "win rate", "difference, 95% interval",
)  # fmt: skip
SEED = 60_000  # of the episodes


def measure(run: Path, part: str, by: str, envs: int, rounds: int) -> dict:
    """One row: ``rounds`` times ``envs`` episodes of the run's policy with ``part`` exchanged, ``by=""`` for none."""
    env, policy = load_policy(run, num_envs=envs, seed=SEED)
    try:
        modules = list(policy) if isinstance(policy, TensorDictSequential) else [policy]
        if not isinstance(modules[0], StateModel):
            raise UserError(
                f"{run} has no state model, of which one expects parts to be exchanged: a globediff run has."
            )
        if by:
            columns = env.task.inferred_layout.select(part)
            policy = TensorDictSequential(modules[0], ExchangePart(columns, by, env.task.target_key), *modules[1:])
        result = evaluate(env, policy, seed=SEED, modes=("stochastic",), rounds=rounds)
    finally:
        env.close()
    found = {name: result.get(f"stochastic/{name}", "") for name in ("return", "success")}
    return {"run": str(run), "part": part, "by": by, "episodes": envs * rounds, **found}


def table(rows: list[dict]) -> str:
    """Mean over runs of each algorithm, part, exchange and number of episodes; how far each run's win rate (else its
    return) lies from that of its policy left alone in as many episodes, with a bootstrap interval of the mean."""
    name = "success" if all(row["success"] != "" for row in rows) else "return"
    alone = {(row["run"], str(row["episodes"])): float(row[name]) for row in rows if not row["by"]}
    groups = defaultdict(list)
    for row in rows:
        groups[Path(row["run"]).parent.name, row["part"], row["by"], str(row["episodes"])].append(row)
    lines = []
    for (algorithm, part, by, episodes), group in groups.items():
        means = {key: [float(row[key]) for row in group if row[key] != ""] for key in ("return", "success")}
        cells = [f"{sum(v) / len(v):.{digits}f}" if v else "-" for v, digits in zip(means.values(), (2, 3))]
        differences = [float(row[name]) - alone[row["run"], episodes] for row in group if by]
        interval = "{:+.3f} to {:+.3f}".format(*bootstrap_interval(differences)) if len(differences) > 1 else "-"
        lines.append([algorithm, part or "-", by or "-", episodes, str(len(group)), *cells, interval])
    return markdown_table(HEADER, lines)


@ends_program()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trained runs with a state model")
    parser.add_argument("--parts", nargs="+", required=True, help="names of the inferred state's features, * allowed")
    parser.add_argument("--envs", type=int, default=128, help="side by side, one episode each a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("runs/parts.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = read_rows(arguments.output)
    kinds = [("", "")] + [(part, by) for part in dict.fromkeys(["*", *arguments.parts]) for by in EXCHANGES]
    episodes = str(arguments.envs * arguments.rounds)
    have = {(row["run"], row["part"], row["by"], row["episodes"]) for row in rows}
    for run, (part, by) in tqdm([(run, kind) for run in arguments.runs for kind in kinds]):
        if (str(run), part, by, episodes) in have:
            continue
        rows.append(measure(run, part, by, arguments.envs, arguments.rounds))
        write_rows(arguments.output, COLUMNS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
