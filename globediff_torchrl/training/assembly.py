"""The parts of a training run put together: collector, loss, optimiser, buffers and hooks, in their order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.record.loggers import get_logger
from torchrl.trainers.trainers import UpdateWeights
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.envs import can_be_saved, preserve_vmas_rng
from globediff_torchrl.envs.crashed import drop_crashed, episode_ends
from globediff_torchrl.errors import UserError
from globediff_torchrl.evaluation.episodes import evaluate
from globediff_torchrl.policies import add_memory
from globediff_torchrl.policies.recurrent import memories
from globediff_torchrl.state_models import Fitter
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.algorithms import Team, env_from_config, make_team
from globediff_torchrl.training.checkpoint import (
    FOLDER,
    NewEpisodes,
    RandomState,
    SafeRotation,
    SimulatorState,
    make_checkpoint,
)
from globediff_torchrl.training.dataset import PairWriter, random_pairs
from globediff_torchrl.training.hooks import Clock, Evaluation, FiniteBatch, InputStatistics, StateModelUpdate
from globediff_torchrl.training.mappo import (
    Advantages,
    MAPPOStepper,
    Minibatches,
    TrueInferences,
    make_loss,
    make_optimizer,
)
from globediff_torchrl.training.pretrain import OfflineData, Pretraining
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages
from globediff_torchrl.training.results import write_results
from globediff_torchrl.training.trainer import MAPPOTrainer

LOSS_SETTINGS = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")


def batch_frames(config: DictConfig, env: EnvBase) -> int:
    """Frames a batch: one episode of each environment, or what the configuration says, in whole environment steps."""
    asked = config.training.frames_per_batch
    if asked is None:
        return env.batch_size.numel() * (env.task.max_steps or 100)
    if asked < env.batch_size.numel():
        raise UserError(
            f"training.frames_per_batch must be at least one step of each environment ({env.batch_size.numel()}), "
            f"got {asked}: null takes one episode of each."
        )
    return math.ceil(asked / env.batch_size.numel()) * env.batch_size.numel()


def assemble(config: DictConfig, env: EnvBase, team: Team, output: Path, report: bool = True) -> MAPPOTrainer:
    """The trainer of a configuration with all its parts; ``report=False``: no evaluations, checkpoints and results."""
    training = config.training
    frames = batch_frames(config, env)
    steps = frames // env.batch_size.numel()
    loss = make_loss(
        team.actor,
        team.critic,
        team.value_norm,
        **{name: training[name] for name in LOSS_SETTINGS},
    )
    optimizer = make_optimizer(loss, training.lr, training.critic_lr, training.adam_eps)
    clock = Clock(team.state_model)
    collector = Collector(
        env,
        team.policy,
        frames_per_batch=frames,
        total_frames=-1,
        device=config.device,  # named, so that nothing is cast at each step
        # whole episodes in each batch: nothing of the simulator needs to survive a checkpoint
        reset_at_each_iter=steps == env.task.max_steps and not env.task.ends_early,
        track_traj_ids=False,
        exploration_type=ExplorationType.RANDOM,
        pre_collect_hook=clock.start,
        auto_register_policy_transforms=False,  # for recurrent policies
    )
    trainer = MAPPOTrainer(
        config,
        team,
        env,
        output,
        collector=collector,
        total_frames=math.ceil(config.total_frames / frames) * frames,
        frame_skip=1,
        optim_steps_per_batch=training.minibatches,
        num_epochs=training.epochs,
        loss_module=loss,
        optimizer=optimizer,
        optimization_stepper=MAPPOStepper(
            optimizer, training.max_grad_norm, (frames, config.total_frames), training.final_lr
        ),
        logger=_logger(config, output),
        log_interval=0,
        progress_bar=config.progress,
        checkpoint=make_checkpoint(),
        checkpoint_rotation=SafeRotation(output / FOLDER, keep_last=config.checkpoint.keep_last) if report else None,
        save_trainer_interval=max(config.checkpoint.every_frames - 1, 0),
    )
    _register_hooks(trainer, clock, frames, report)
    return trainer


def _logger(config: DictConfig, output: Path) -> Any:
    if config.logger == "none":
        return None
    try:
        return get_logger(config.logger, logger_name=str(output), experiment_name="logs")
    except ImportError as error:
        raise UserError(
            f"logger={config.logger} needs a package that is not installed ({error}): "
            f"pip install 'globediff_torchrl[{config.logger}]'."
        ) from error


def _register_hooks(trainer: MAPPOTrainer, clock: Clock, frames: int, report: bool) -> None:
    """The order is the order of execution within each stage of TorchRL's loop."""
    config, team, loss = trainer.config, trainer.team, trainer.loss_module
    trainer.register_op("batch_process", clock.collected)
    trainer.register_op("batch_process", drop_crashed)
    FiniteBatch([keys.OBSERVATION, ("next", *keys.REWARD), keys.STATE, keys.INFERRED_STATE]).register(trainer)
    if config.training.update_input is True or str(config.training.update_input).lower() == "true":
        TrueInferences(team.actor, trainer.env.task.target_key).register(trainer)
    _advantages(loss).register(trainer)
    _minibatches(trainer, frames).register(trainer)
    trainer.register_op("pre_steps_log", _batch_metrics)
    trainer.register_op("post_steps", clock.updated)
    if team.state_model is not None and team.state_model.make_loss() is not None:
        _register_state_model(trainer)
    InputStatistics([team.actor, team.critic], lambda: _warm_up(trainer), trainer).register(trainer)
    update_weights = UpdateWeights(trainer.collector, policy_weights_getter=lambda: TensorDict.from_module(team.policy))
    trainer.register_op("post_steps_log", lambda batch: update_weights())
    trainer.register_op("post_steps_log", clock.state_model_updated)
    trainer.register_module("clock", clock)
    if report:
        Evaluation(trainer, _evaluator(trainer), config.evaluation.every_frames).register(trainer)
    trainer.register_op("post_steps_log", lambda batch: trainer.table.end_row())
    trainer.register_module("table", trainer.table)
    if not trainer.collector.reset_at_each_iter:
        trainer.register_module("simulator", _simulator(trainer))
    trainer.register_module("random_state", RandomState())
    if report:
        trainer.register_op("shutdown", lambda: write_results(trainer))


def _advantages(loss: MAPPOLoss) -> Advantages:
    return RecurrentAdvantages(loss) if any(memories(loss.critic_network)) else Advantages(loss)


def _minibatches(trainer: MAPPOTrainer, frames: int) -> Minibatches:
    training, loss = trainer.config.training, trainer.loss_module
    if not any(memories(loss)):
        return Minibatches(loss, frames, training.minibatches)
    envs = trainer.env.batch_size.numel()
    return ChunkMinibatches(loss, (envs, frames // envs), training.minibatches, training.chunk_length)


def _simulator(trainer: MAPPOTrainer) -> SimulatorState | NewEpisodes:
    if can_be_saved(trainer.env):
        return SimulatorState(trainer.env, trainer.collector)
    return NewEpisodes(trainer.env, trainer.collector, trainer.config.seed)


def _batch_metrics(batch: TensorDict) -> dict[str, Any]:
    return {**_engine_metrics(batch), **_episode_metrics(batch)}


def _engine_metrics(batch: TensorDict) -> dict[str, Any]:
    """Of simulators in processes of their own: crashes so far of all environments, and what memory they hold."""
    if ("next", keys.CRASHED) not in batch.keys(True):
        return {}
    last = batch[..., -1]
    return {
        "engine/crashes": float(last.get(("next", keys.CRASHES)).sum()),
        "engine/memory_mb": float(last.get(("next", keys.ENGINE_MEMORY)).sum()),
        "engine/dropped_steps": float((~batch.get(keys.VALID)).sum()),
    }


def _episode_metrics(batch: TensorDict) -> dict[str, Any]:
    done = episode_ends(batch)
    if not done.any():
        return {}
    returns = batch.get(("next", *keys.EPISODE_REWARD)).mean((-1, -2))[done]
    metrics = {"return": float(returns.mean())}
    success = batch.get(("next", keys.SUCCESS), None)
    if success is not None:
        metrics["success"] = float(success.squeeze(-1)[done].float().mean())
    return {**metrics, "log_pbar": True}


def _register_state_model(trainer: MAPPOTrainer) -> None:
    config, model = trainer.config, trainer.team.state_model
    update, pretrain = config.state_model_update, config.pretrain
    per_team = model.infer_per == "team"
    fitter = Fitter(model, lr=update.lr)
    # compilable: plain counters in place of multiprocessing's, whose semaphores a killed run would leave behind
    storage = LazyTensorStorage(update.buffer_size, compilable=True)
    buffer = TensorDictReplayBuffer(storage=storage, compilable=True)
    task = trainer.env.task
    offline = OfflineData(
        path=Path(pretrain.dataset or trainer.output / "dataset"),
        frames=pretrain.frames,
        expected={
            "env": task.name,
            "aux": task.aux,
            "hidden": list(task.hidden),
            "aux_dim": model.aux_dim,
            "state_dim": model.state_dim,
            "per_team": per_team,
            "asked": pretrain.frames,
            "behaviour": pretrain.behaviour,
            "description": task.description,
        },
        per_team=per_team,
        target=model.state_key,
        collect=lambda writer: _behave(config, trainer.output, writer),
    )
    Pretraining(
        trainer,
        fitter,
        offline,
        buffer,
        steps=pretrain.steps,
        batch_size=pretrain.batch_size,
        lr=pretrain.lr,
        output=trainer.output,
        seed=config.seed,
        progress=config.progress,
    ).register(trainer)
    StateModelUpdate(
        fitter,
        buffer,
        every=update.every_episodes,
        steps=update.steps,
        batch_size=update.batch_size,
        lr=update.lr,
        per_team=per_team,
    ).register(trainer)


def _behave(config: DictConfig, output: Path, writer: PairWriter) -> None:
    """Fills ``writer`` with what the behaviour policy sees, on environments and random numbers of its own."""
    behaviour = config.copy()
    behaviour.update({"resume": None, "output": str(output / "behaviour"), "logger": "none"})
    behaviour.update({"total_frames": config.pretrain.frames, "seed": config.seed + 1_000_000})
    behaviour.evaluation.every_frames = 0
    with preserve_vmas_rng(), torch.random.fork_rng():
        torch.manual_seed(behaviour.seed)
        env = env_from_config(behaviour)
        if config.pretrain.behaviour == "random":
            random_pairs(env, writer, env.task.max_steps or 100, config.progress)
            env.close()
            return
        x = behaviour.algorithm.aux
        behaviour.algorithm = configuration.load_algorithm("mappo")
        behaviour.algorithm.aux = x
        run = Path(behaviour.output)
        run.mkdir(parents=True, exist_ok=True)
        trainer = assemble(behaviour, env, make_team(behaviour, env), run, report=False)
        trainer.takes_signals = False
        tqdm.write(f"Collecting {writer.frames:,} pairs (x, s) with a short MAPPO run.")
        writer.register(trainer)
        trainer.train()
        if not env.is_closed:
            env.close()  # its engines, where it has any


def _warm_up(trainer: MAPPOTrainer) -> Any:
    env, steps = trainer.env, trainer.env.task.max_steps or 100
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        rollout = env.rollout(steps, trainer.team.policy, break_when_any_done=False)
    if not trainer.collector.reset_at_each_iter:
        trainer.collector.reset()  # it would go on from where it was made, the simulator from where the rollout ended
    return rollout


def _evaluator(trainer: MAPPOTrainer) -> Any:
    config = trainer.config
    settings, envs = config.evaluation, {}

    def run(final: bool) -> dict[str, float]:
        episodes = settings.final_episodes if final else settings.episodes
        count = min(episodes, settings.get("num_envs", None) or episodes)  # runs of before had no such entry
        if count not in envs:
            with preserve_vmas_rng():
                env = env_from_config(config, num_envs=count, seed=settings.seed)
                envs[count] = add_memory(env, trainer.team.policy)
        env, steps = envs[count], envs[count].task.max_steps or 100
        rounds = math.ceil(episodes / count)
        results = evaluate(env, trainer.team.policy, seed=settings.seed, max_steps=steps, rounds=rounds)
        while final and envs:
            envs.popitem()[1].close()  # their engines, where they have any
        return results

    return run
