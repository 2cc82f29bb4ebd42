"""The video that a run leaves, where its configuration asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

from globediff_torchrl.envs import preserve_vmas_rng
from globediff_torchrl.evaluation.video import record_episode
from globediff_torchrl.training.algorithms import env_from_config
from globediff_torchrl.training.run_files import VIDEO

if TYPE_CHECKING:
    from globediff_torchrl.training.trainer import MAPPOTrainer


def write_video(trainer: MAPPOTrainer) -> None:
    """Writes ``episode.gif``, an episode of the trained policy on an environment and a seed of the evaluation's.

    Raises:
        UserError: the state has no positions to draw; ``check_task`` says so before the training.
    """
    config, path = trainer.config, trainer.output / VIDEO
    seed = config.evaluation.seed
    with preserve_vmas_rng():
        env = env_from_config(config, num_envs=1, seed=seed)
    try:
        record_episode(env, trainer.team.policy, path, seed=seed, progress=config.progress)
    finally:
        env.close()  # its engine, where it has one
    if config.progress:
        tqdm.write(f"An episode with what was inferred: {path}")
