"""Plug-in execution: a policy trained on the true state acts on an inferred one. What is lost against the loop?

    python benchmarks/plugin.py --runs runs/bracket --envs hunt gates --seeds 0 1 2

For each environment and seed it takes the actor of ``oracle`` and the state model of ``globediff`` below ``--runs``
(runs of benchmarks/bracket.py), puts one behind the other and evaluates 128 fresh episodes: with one sample, with the
mean, and with the blend that is read in the loop. ``refreshed``: the state model goes on learning from what the
composed policy itself sees, three rounds of 128 episodes. Beside it, on the same episodes, what was trained in the loop
(``globediff``) and the ``oracle`` itself.
Writes ``plugin.csv`` there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import EnvBase
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.errors import ends_program
from globediff_torchrl.evaluation.episodes import evaluate, run_episodes
from globediff_torchrl.state_models import Fitter, GlobeDiff
from globediff_torchrl.state_models.pairs import pairs_of
from globediff_torchrl.tables import write_rows
from globediff_torchrl.training.results import load_policy

COLUMNS = ("env", "seed", "reads", "refreshed", "return", "return_sem", "state_error")
SEED = 40_000  # of the episodes judged; those that refresh the state model have seeds of their own
ROUNDS, STEPS, LR = 3, 300, 1e-3


def judge(env: EnvBase, policy: torch.nn.Module) -> dict[str, float]:
    """Return of a policy over fresh episodes, sampled actions."""
    result = evaluate(env, policy, seed=SEED, modes=("stochastic",))
    names = {"return": "return", "return_sem": "return_sem", "state_error": "state_error_sample"}
    return {name: result.get(f"stochastic/{key}", "") for name, key in names.items()}


def refresh(env: EnvBase, model: GlobeDiff, actor: torch.nn.Module, seed: int) -> None:
    """Lets the state model learn from episodes of the composition, all rounds so far together."""
    fitter, seen = Fitter(model, lr=LR), []
    generator = torch.Generator().manual_seed(seed)
    for turn in range(ROUNDS):
        policy = TensorDictSequential(model, actor)
        rollout = run_episodes(env, policy, "stochastic", SEED + 1 + turn, env.task.max_steps)
        seen.append(rollout.select(keys.AUX_OBSERVATION, keys.STATE).reshape(-1))
        data = TensorDict.cat(seen)
        for _ in range(STEPS):
            fitter.step(data[torch.randint(len(data), (256,), generator=generator)], LR)
        fitter.update_final_scale(*pairs_of(model, data).spread(16_384))


def measure(runs: Path, env_name: str, seed: int) -> list[dict]:
    """Rows of one environment and seed."""

    def load(algorithm: str) -> tuple[EnvBase, torch.nn.Module]:
        return load_policy(runs / env_name / algorithm / f"seed{seed}", num_envs=128, seed=SEED)

    env, oracle = load("oracle")
    rows = []
    for algorithm in ("oracle", "globediff"):  # each in its own environment: they may read other x
        row = {"env": env_name, "seed": seed, "reads": f"{algorithm}'s own", "refreshed": False}
        rows.append(row | judge(*load(algorithm)))
    for refreshed in (False, True):
        model, actor = load("globediff")[1][0], oracle[1]
        torch.manual_seed(seed)
        if refreshed:
            refresh(env, model, actor, seed)
        for reads in ("sample", "mean", "blend"):
            model.sample = reads != "mean"
            read = [TensorDictModule(torch.clone, [model.blend_key], [model.inferred_key])] if reads == "blend" else []
            row = {"env": env_name, "seed": seed, "reads": reads, "refreshed": refreshed}
            rows.append(row | judge(env, TensorDictSequential(model, *read, actor)))
    return rows


@ends_program()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/bracket"))
    parser.add_argument("--envs", nargs="+", default=["hunt", "gates"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = []
    for env, seed in tqdm([(env, seed) for env in arguments.envs for seed in arguments.seeds]):
        rows += measure(arguments.runs, env, seed)
        write_rows(arguments.runs / "plugin.csv", COLUMNS, rows, digits=4)
    for row in rows:
        print(" ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))


if __name__ == "__main__":
    main()
