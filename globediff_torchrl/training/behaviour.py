"""The behaviour run: what fills the offline dataset before a state model is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig
from torchrl.envs import EnvBase
from tqdm import tqdm

from globediff_torchrl.envs import preserve_vmas_rng
from globediff_torchrl.random_streams import preserve_rng
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.algorithms import Team, env_from_config, make_team
from globediff_torchrl.training.dataset import PairWriter, random_pairs
from globediff_torchrl.training.trainer import MAPPOTrainer


def behave(
    config: DictConfig,
    output: Path,
    writer: PairWriter,
    assemble: Callable[[DictConfig, EnvBase, Team, Path], MAPPOTrainer],
) -> None:
    """Fills ``writer`` with what the behaviour policy sees, on environments and random numbers of its own.

    Args:
        config: of the run; ``pretrain.behaviour`` says whether a short MAPPO run or random actions.
        output: of the run; the MAPPO run's is ``behaviour`` in it.
        writer: receives the pairs (x, s).
        assemble: puts the MAPPO run together, without evaluations, checkpoints and results. Handed in, as the assembly
            of a run includes this one.
    """
    behaviour = config.copy()
    behaviour.update({"resume": None, "output": configuration.literal(str(output / "behaviour")), "logger": "none"})
    behaviour.update({"total_frames": config.pretrain.frames, "seed": config.seed + 1_000_000})
    behaviour.evaluation.every_frames = 0
    with preserve_vmas_rng(), preserve_rng(behaviour.seed):
        env = env_from_config(behaviour)
        if config.pretrain.behaviour == "random":
            random_pairs(env, writer, env.task.horizon, config.progress)
            env.close()
            return
        x = behaviour.algorithm.aux
        behaviour.algorithm = configuration.load_algorithm("mappo")
        behaviour.algorithm.aux = x
        run = Path(behaviour.output)
        run.mkdir(parents=True, exist_ok=True)
        trainer = assemble(behaviour, env, make_team(behaviour, env), run)
        trainer.takes_signals = False
        tqdm.write(f"Collecting {writer.frames:,} pairs (x, s) with a short MAPPO run.")
        writer.register(trainer)
        trainer.train()
        if not env.is_closed:
            env.close()  # its engines, where it has any
