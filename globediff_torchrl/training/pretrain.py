"""Pretraining of the state model, before the policy takes its first step on what it infers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import TensorDictReplayBuffer
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import TrainerHookBase
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.envs.processes.crashed import drop_crashed
from globediff_torchrl.evaluation.relative_error import relative_error
from globediff_torchrl.files import one_at_a_time
from globediff_torchrl.state_models import Fitter, StateModel, fit
from globediff_torchrl.state_models.pairs import random_indices
from globediff_torchrl.tables import write_rows
from globediff_torchrl.training.dataset import BEGUN, PairWriter, living_rows, load_dataset, pairs
from globediff_torchrl.training.run_files import FIT_STATE, FIT_TABLE

HELD_OUT_ROWS = 4096  # of the held-out pairs, for the error that is printed


@dataclass
class OfflineData:
    """Where the offline pairs (x, s) come from.

    Args:
        path: folder of the dataset; used again where it is complete and fits.
        frames: number of pairs.
        expected: what a reused dataset must have been collected for.
        model: says whether one inference serves the team, and which key is s.
        collect: fills a writer by the behaviour policy.
    """

    path: Path
    frames: int
    expected: dict[str, Any]
    model: StateModel
    collect: Callable[[PairWriter], None]

    def check(self) -> None:
        """Refuses, before anything is written, a folder that :meth:`get` would refuse.

        Raises:
            UserError: it holds a dataset of something else, or no dataset but other files.
        """
        if (self.path / BEGUN).exists():  # another run collects, or one was killed: what is there says nothing yet
            return
        if load_dataset(self.path, self.expected) is None:
            self._writer().check()

    def get(self) -> TensorDictBase:
        """The pairs on disk, or newly collected ones; of several runs that need the same, one collects them."""
        data = load_dataset(self.path, self.expected)
        if data is None:
            with one_at_a_time(self.path, f"Waiting for the offline pairs that another run collects in {self.path}."):
                data = load_dataset(self.path, self.expected)
                if data is None:
                    # where pretrain.dataset names it, an empty folder may be a misprint
                    tqdm.write(f"Collecting {self.frames:,} offline pairs in {self.path}.")
                    return self._collect()
        tqdm.write(f"Taking the {len(data):,} offline pairs that are in {self.path}; none are collected.")
        return data

    def _collect(self) -> TensorDictBase:
        writer = self._writer()
        writer.check()
        self.collect(writer)
        return writer.finish(self.expected)

    def _writer(self) -> PairWriter:
        return PairWriter(self.path, self.frames, self.model.infer_per == "team", self.model.state_key)


class Pretraining(TrainerHookBase):
    """Runs before the first batch: offline data, :func:`fit`, and the data into the replay buffer.

    The last tenth of the data is held out: on it is measured what the regression and the last denoising step leave
    open, and its loss stands beside that of the others in ``pretraining.csv``.

    With 0 steps nothing is collected or fitted, and a first rollout standardises the model: untouched, it would take x
    and s as they come for the whole run.

    A resumed run that has collected frames skips it; one that was interrupted within it goes on where it was.

    Args:
        trainer: to see how far a resumed run is.
        fitter: owns the trained copy of the model and the optimiser; goes on to the online updates.
        offline: the data.
        replay_buffer: receives the offline data; what the rollouts bring overwrites it in time.
        warm_up: gives a first rollout, for ``steps=0``.
        steps: gradient steps; 0 leaves the model untrained.
        batch_size: pairs in a step.
        lr: peak learning rate.
        output: folder for the progress of the fit and its curve.
        seed: seed of the fit.
        progress: show a progress bar.
    """

    def __init__(
        self,
        trainer: Trainer,
        fitter: Fitter,
        offline: OfflineData,
        replay_buffer: TensorDictReplayBuffer,
        warm_up: Callable[[], TensorDictBase],
        *,
        steps: int,
        batch_size: int,
        lr: float,
        output: Path,
        seed: int,
        progress: bool,
    ) -> None:
        self.trainer, self.fitter, self.offline, self.replay_buffer = trainer, fitter, offline, replay_buffer
        self.warm_up = warm_up
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.output, self.seed, self.progress = output, seed, progress

    def check(self) -> None:
        """Refuses offline data that the pretraining would refuse, where there is one to come."""
        if self.trainer.collected_frames == 0 and self.steps > 0:
            self.offline.check()

    def __call__(self) -> None:
        if self.trainer.collected_frames > 0:
            return
        if self.steps == 0:
            self._standardise()
            return
        data = self.offline.get()
        held_out = max(len(data) // 10, 1)
        history = fit(
            self.fitter.model,
            data[:-held_out],
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=self.seed,
            fitter=self.fitter,
            progress=self.progress,
            checkpoint=self.output / FIT_STATE,
            validation=data[-held_out:],
        )
        self._write(history)
        self.replay_buffer.extend(data.to_tensordict())
        error = held_out_error(self.fitter.model, data[-held_out:])
        self.trainer._log(**{"pretraining/state_error": error})
        tqdm.write(f"Pretrained on {len(data) - held_out:,} pairs; held-out error {error:.3f} of the mean state's.")

    def _standardise(self) -> None:
        model = self.fitter.model
        rollout = drop_crashed(self.warm_up())
        x, s = living_rows(pairs(rollout, model.infer_per == "team", model.state_key), model)
        if len(x):  # all of it may have been dropped by crashes
            self.fitter.set_statistics(x, s)
            self.fitter.update_residual_scale(x, s)

    def _write(self, history: dict[str, list[float]]) -> None:
        write_rows(self.output / FIT_TABLE, list(history), (dict(zip(history, row)) for row in zip(*history.values())))

    def end(self) -> None:
        """Removes the progress file: by the run's end there is a checkpoint to resume from in its place."""
        (self.output / FIT_STATE).unlink(missing_ok=True)

    def register(self, trainer: Trainer, name: str = "pretraining") -> None:
        trainer.register_op("setup", self)
        trainer.register_op("shutdown", self.end)


@torch.no_grad()
def held_out_error(model, data: TensorDictBase) -> float:
    """Squared error of the estimate on pairs that were not trained on, as a share of the mean predictor's (1)."""
    data = data[random_indices(len(data), HELD_OUT_ROWS)].to_tensordict().to(model.state_mean.device)
    inferred = model(data.select(*model.in_keys))
    state = data.get(model.state_key)
    state = state if state.ndim == 3 else state.unsqueeze(-2)  # the same for all agents
    key = keys.INFERRED_MEAN if keys.INFERRED_MEAN in model.out_keys else keys.INFERRED_STATE
    error = relative_error(inferred.get(key), state, data.get(keys.ACTIVE_MASK, None))
    return math.nan if error is None else error
