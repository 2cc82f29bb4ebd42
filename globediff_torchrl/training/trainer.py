"""TorchRL's Trainer with a table of all that is logged, and an end that leaves its results."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer
from tqdm import tqdm

from globediff_torchrl.envs import describe_hidden
from globediff_torchrl.errors import UserError
from globediff_torchrl.files import disk_trouble
from globediff_torchrl.policies.ego_view import EgoView
from globediff_torchrl.training.algorithms import Team
from globediff_torchrl.training.checkpoint import StopOnSignal, load_module
from globediff_torchrl.training.hooks import Table
from globediff_torchrl.training.pretrain import Pretraining
from globediff_torchrl.training.results import film, withdraw_results, write_results
from globediff_torchrl.training.run_files import TABLE
from globediff_torchrl.training.run_lock import RunLock


class MAPPOTrainer(Trainer):
    """TorchRL's Trainer for one configuration; :func:`make_trainer` builds it.

    Attributes:
        config: the configuration.
        team: the modules.
        env: the training environments.
        output: folder of the results.
        table: everything that was logged, one row an iteration.
        resumed_from: the checkpoint that a resumed run goes on from, until it trains.
        pretraining: the hook that fits the state model, None where none is fitted.
        stopped_by: the signal that ended the training behind an iteration, None where none did.
        lock: keeps other runs out of the folder until the training has ended; None for a run within a run.
    """

    takes_signals = True  # False for a run within a run, whose end would not be the whole run's
    resumed_from: Path | None = None
    pretraining: Pretraining | None = None
    stopped_by: int | None = None
    lock: RunLock | None = None

    def __init__(self, config: DictConfig, team: Team, env: EnvBase, output: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Trainer keeps these on the class, where a second trainer of the process (the behaviour policy's) resets them
        self.collected_frames, self._optim_count, self._last_save, self._last_log = 0, 0, 0, {}
        self.config, self.team, self.env, self.output = config, team, env, output
        self.table = Table(self, output / TABLE)
        self.results: dict[str, Any] = {}

    def register_module(self, module_name: str, module: Any) -> None:
        """Registers what goes into the checkpoints; in a resumed run it is brought to where it was in that run.

        Raises:
            UserError: see :func:`~globediff_torchrl.training.checkpoint.load_module`.
        """
        super().register_module(module_name, module)
        if self.resumed_from is not None:  # hooks of one's own come after make_trainer, which has loaded the rest
            load_module(self, module_name, self.resumed_from)

    def _setup_hook(self) -> None:
        if self.progress_bar:  # Trainer draws it from 0 in a resumed run, too
            self._pbar.initial = self._pbar.n = self.collected_frames
            self._pbar.refresh()
        super()._setup_hook()

    def _log(self, log_pbar: bool = False, **scalars: Any) -> None:
        self.table.add(scalars)
        if self.collected_frames == 0:  # Trainer takes what was never logged for logged at frame 0, and leaves it out
            self._last_log.update(dict.fromkeys(scalars, -1))
        super()._log(log_pbar=log_pbar, **scalars)
        for name in scalars:  # the last one is for hooks that ask (EarlyStopping); Trainer would keep all of the run
            del self._log_dict[name][:-1]

    def train(self) -> dict[str, Any]:
        """Pretrains, trains, evaluates; returns the final results, which also stand in ``summary.json``.

        Raises:
            TrainingError: a NaN; what was computed before is on disk.
            UserError: the disk is full; the last checkpoint is whole. Or another run has begun in the folder.
            Stopped: a signal before the first batch is collected, or a second one.
        """
        with self.lock or nullcontext():
            return self._train()

    def _train(self) -> dict[str, Any]:
        try:
            if self.collected_frames >= self.total_frames:
                tqdm.write(f"{self.output} is complete at {self.collected_frames} frames; nothing to train.")
                if self.results:  # they are those of its own summary, and there is no table to make them from
                    film(self)
                else:
                    write_results(self)  # a run killed behind its last checkpoint has not written them
                return self.results
            withdraw_results(self.output)  # of a run that ended and is resumed
            self.resumed_from = None  # new checkpoints take its place
            with StopOnSignal(self) if self.takes_signals else nullcontext():
                super().train()
        except UserError:
            raise
        except Exception as error:
            reason = disk_trouble(error)
            if reason is None:
                raise
            raise UserError(
                f"{self.output} could not be written to at frame {self.collected_frames}: {reason} ({error}). Expected "
                f"room for checkpoints, tables and data; what was written before is whole. Free some space and go on "
                f"with resume={self.output}."
            ) from error
        return self.results


def announce(trainer: MAPPOTrainer) -> None:
    """Prints what is run, what is hidden, and where the results will lie."""
    config, task = trainer.config, trainer.env.task
    model = trainer.team.state_model
    inference = "no inference"
    if model is not None:
        view = next((module for module in trainer.team.actor.modules() if isinstance(module, EgoView)), None)
        # the key that reads=sample names need not hold one
        read = None if view is None else model.answer if view.reads == "sample" else view.reads
        read = "nothing" if view is None else f"the {read} ({view.view})"
        inference = f"{type(model).__name__} once per {model.infer_per}, of which the actor reads {read}"
    tqdm.write(f"{config.algorithm.name} on {task.name}: {task.description}")
    tqdm.write(describe_hidden(task))
    tqdm.write(
        f"{task.n_agents} agents, {inference}; {config.env.num_envs} environments, {trainer.total_frames:,} frames, "
        f"seed {config.seed}, {config.threads} torch threads; results in {trainer.output}"
    )
