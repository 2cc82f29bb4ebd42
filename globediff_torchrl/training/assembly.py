"""The parts of a training run put together: collector, loss, optimiser, buffers and hooks, in their order."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.trainers.trainers import UpdateWeights

from globediff_torchrl import keys
from globediff_torchrl.envs import can_be_saved
from globediff_torchrl.envs.processes.crashed import drop_crashed
from globediff_torchrl.errors import UserError
from globediff_torchrl.policies.recurrent import memories
from globediff_torchrl.state_models import Fitter
from globediff_torchrl.training.algorithms import Team
from globediff_torchrl.training.behaviour import behave
from globediff_torchrl.training.checkpoint import (
    NewEpisodes,
    RandomState,
    SafeRotation,
    SimulatorState,
    make_checkpoint,
)
from globediff_torchrl.training.config import as_dict
from globediff_torchrl.training.hooks import Clock, Evaluation, FiniteBatch, InputStatistics, StateModelUpdate
from globediff_torchrl.training.loggers import finish, make_logger
from globediff_torchrl.training.mappo import Advantages, MAPPOStepper, Minibatches, make_loss, make_optimizer
from globediff_torchrl.training.metrics import batch_counts, batch_metrics
from globediff_torchrl.training.pretrain import OfflineData, Pretraining
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages
from globediff_torchrl.training.results import write_results
from globediff_torchrl.training.resume import PATIENCE
from globediff_torchrl.training.rollouts import make_evaluator, warm_up
from globediff_torchrl.training.rows import RowStorage
from globediff_torchrl.training.run_files import CHECKPOINTS, DATASET
from globediff_torchrl.training.trainer import MAPPOTrainer
from globediff_torchrl.training.true_inferences import TrueInferences, update_reads_truth

LOSS_SETTINGS = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")
FINITE = (
    keys.OBSERVATION,
    keys.AUX_OBSERVATION,
    ("next", *keys.REWARD),
    keys.STATE,
    *keys.INFERENCES,
)
# entries of env that a dataset's description has by themselves, or that change nothing in it
BESIDE = {"family", "scenario", "map", "num_envs", "aux", "hide", "history", "max_steps", "kwargs", *PATIENCE}


def batch_frames(config: DictConfig, env: EnvBase) -> int:
    """Frames a batch: one episode of each environment, or what the configuration says, in whole environment steps."""
    asked = config.training.frames_per_batch
    if asked is None:
        return env.batch_size.numel() * env.task.horizon
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
    loss = make_loss(
        team.actor,
        team.critic,
        team.value_norm,
        **{name: training[name] for name in LOSS_SETTINGS},
    )
    optimizer = make_optimizer(loss, training.lr, training.critic_lr, training.adam_eps)
    clock = Clock(team.state_model)
    rotation = SafeRotation(output / CHECKPOINTS, keep_last=config.checkpoint.keep_last) if report else None
    trainer = MAPPOTrainer(
        config,
        team,
        env,
        output,
        collector=_make_collector(config, env, team, frames, clock),
        total_frames=math.ceil(config.total_frames / frames) * frames,
        frame_skip=1,
        optim_steps_per_batch=training.minibatches,
        num_epochs=training.epochs,
        loss_module=loss,
        optimizer=optimizer,
        optimization_stepper=MAPPOStepper(
            optimizer, training.max_grad_norm, (frames, config.total_frames), training.final_lr
        ),
        logger=make_logger(config, output),
        log_interval=0,
        progress_bar=config.progress,
        checkpoint=make_checkpoint(),
        checkpoint_rotation=rotation,
        save_trainer_interval=max(config.checkpoint.every_frames - 1, 0),
    )
    _register_hooks(trainer, clock, frames, report)
    return trainer


def _make_collector(config: DictConfig, env: EnvBase, team: Team, frames: int, clock: Clock) -> Collector:
    steps = frames // env.batch_size.numel()
    return Collector(
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


def _register_hooks(trainer: MAPPOTrainer, clock: Clock, frames: int, report: bool) -> None:
    """The order is the order of execution within each stage of TorchRL's loop."""
    config, team, loss = trainer.config, trainer.team, trainer.loss_module
    trainer.register_op("batch_process", clock.collected)
    trainer.register_op("batch_process", drop_crashed)
    FiniteBatch(FINITE).register(trainer)
    if update_reads_truth(config.training.update_input):
        truth = TrueInferences(team.actor, trainer.env.task.target_key)
        if truth.inferences:  # an actor that reads no inferred state has nothing to be told
            truth.register(trainer)
    _advantages(loss).register(trainer)
    _minibatches(trainer, frames).register(trainer)
    trainer.register_op("pre_steps_log", batch_metrics)
    trainer.register_op("pre_steps_log", batch_counts)
    trainer.register_op("post_steps", clock.updated)
    if team.state_model is not None and team.state_model.is_trained():
        _register_state_model(trainer)
    InputStatistics([team.actor, team.critic], lambda: warm_up(trainer), trainer).register(trainer)
    update_weights = UpdateWeights(trainer.collector, policy_weights_getter=lambda: TensorDict.from_module(team.policy))
    trainer.register_op("post_steps_log", lambda batch: update_weights())
    trainer.register_op("post_steps_log", clock.state_model_updated)
    trainer.register_module("clock", clock)
    if report:
        Evaluation(trainer, make_evaluator(trainer), config.evaluation.every_frames).register(trainer)
    trainer.register_op("post_steps_log", lambda batch: trainer.table.end_row())
    trainer.register_module("table", trainer.table)
    if not trainer.collector.reset_at_each_iter:
        trainer.register_module("simulator", _simulator(trainer))
    trainer.register_module("random_state", RandomState())
    if report:
        trainer.register_op("shutdown", lambda: write_results(trainer))
        trainer.register_op("shutdown", lambda: finish(trainer.logger))


def _advantages(loss: MAPPOLoss) -> Advantages:
    return RecurrentAdvantages(loss) if any(memories(loss.critic_network)) else Advantages(loss)


def _minibatches(trainer: MAPPOTrainer, frames: int) -> Minibatches:
    training, loss, device = trainer.config.training, trainer.loss_module, trainer.config.device
    if not any(memories(loss)):
        return Minibatches(loss, frames, training.minibatches, device)
    envs = trainer.env.batch_size.numel()
    return ChunkMinibatches(loss, (envs, frames // envs), training.minibatches, training.chunk_length, device)


def _simulator(trainer: MAPPOTrainer) -> SimulatorState | NewEpisodes:
    if can_be_saved(trainer.env):
        return SimulatorState(trainer.env, trainer.collector)
    return NewEpisodes(trainer.env, trainer.collector, trainer.config.seed)


def simulator_arguments(config: DictConfig) -> dict[str, Any]:
    """What the configuration hands to the simulator, by name, as it comes back from JSON; null is its own default."""
    entries = as_dict(config.env)
    given = {name: value for name, value in entries.items() if name not in BESIDE and value is not None}
    given |= entries["kwargs"] or {}
    return json.loads(json.dumps({name: given[name] for name in sorted(given, key=str)}, default=str))


def _register_state_model(trainer: MAPPOTrainer) -> None:
    config, model = trainer.config, trainer.team.state_model
    update, pretrain = config.state_model_update, config.pretrain
    fitter = Fitter(model, lr=update.lr)
    # compilable: plain counters in place of multiprocessing's, whose semaphores a killed run would leave behind
    storage = RowStorage(update.buffer_size, compilable=True)
    buffer = TensorDictReplayBuffer(storage=storage, compilable=True)
    trainer.pretraining = Pretraining(
        trainer,
        fitter,
        _offline_data(trainer),
        buffer,
        lambda: warm_up(trainer),
        steps=pretrain.steps,
        batch_size=pretrain.batch_size,
        lr=pretrain.lr,
        output=trainer.output,
        seed=config.seed,
        progress=config.progress,
    )
    trainer.pretraining.register(trainer)
    StateModelUpdate(
        fitter,
        buffer,
        every=update.every_episodes,
        steps=update.steps,
        batch_size=update.batch_size,
        lr=update.lr,
        max_steps=update.max_steps,
    ).register(trainer)


def _offline_data(trainer: MAPPOTrainer) -> OfflineData:
    config, model, task = trainer.config, trainer.team.state_model, trainer.env.task
    pretrain = config.pretrain
    return OfflineData(
        path=Path(pretrain.dataset or trainer.output / DATASET),
        frames=pretrain.frames,
        expected={
            "env": task.name,
            "aux": task.aux,
            "hidden": list(task.hidden),
            "aux_dim": model.aux_dim,
            "state_dim": model.state_dim,
            "per_team": model.infer_per == "team",
            "asked": pretrain.frames,
            "behaviour": pretrain.behaviour,
            "max_steps": task.max_steps,
            "kwargs": simulator_arguments(config),
            "code": task.code,
        },
        model=model,
        collect=lambda writer: behave(config, trainer.output, writer, partial(assemble, report=False)),
    )
