"""Hooks of TorchRL's Trainer that keep the state model, the input statistics and the books in step with training."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import TrainerHookBase

from globediff_torchrl.envs.processes.crashed import episode_ends
from globediff_torchrl.errors import TrainingError, UserError
from globediff_torchrl.policies.networks import running_norms, update_input_statistics
from globediff_torchrl.state_models import Fitter
from globediff_torchrl.tables import write_rows
from globediff_torchrl.training.checkpoint import FilledRows
from globediff_torchrl.training.dataset import living_rows, one_agent_each, pairs

SPREAD_ROWS = 1024


class FiniteBatch(TrainerHookBase):
    """Refuses a batch with a NaN or infinite number before anything is trained on it."""

    def __init__(self, names: Sequence) -> None:
        self.names = list(names)

    def __call__(self, batch: TensorDictBase) -> None:
        for name in self.names:
            value = batch.get(name, None)
            if value is not None and value.is_floating_point() and not torch.isfinite(value).all():
                raise TrainingError(
                    f"the environment or the state model gave NaN or infinite numbers in {name} "
                    f"(shape {list(value.shape)}); finite ones were expected. Nothing was trained on them, and the "
                    f"last checkpoint is untouched. Check the scenario, or lower training.lr."
                )

    def register(self, trainer: Trainer, name: str = "finite_batch") -> None:
        trainer.register_op("batch_process", self)


class StateModelUpdate(TrainerHookBase):
    """The online update of the state model (Sec. 4.3, Appendix D): every N episodes, from a replay buffer.

    Args:
        fitter: trains the state model; ``fitter.model`` is the one the policy samples from.
        replay_buffer: holds pairs (x, s), the offline ones first; the newest overwrite the oldest when it is full.
        every: number of finished episodes between two updates (50 in the paper).
        steps: gradient steps an update.
        batch_size: pairs (x, s) in a step, of as many moments: a random agent's of each where every agent infers.
        lr: learning rate of these steps; the pretraining's schedule has ended near zero.
        max_steps: gradient steps an iteration at most, or None for no bound. Many environments end many episodes at
            once; their number would make the state model, not the policy, most of the training.
    """

    def __init__(
        self,
        fitter: Fitter,
        replay_buffer: TensorDictReplayBuffer,
        *,
        every: int,
        steps: int,
        batch_size: int,
        lr: float,
        max_steps: int | None = None,
    ) -> None:
        self.fitter, self.replay_buffer = fitter, replay_buffer
        self.every, self.steps, self.batch_size = every, steps, batch_size
        self.lr, self.max_steps = lr, max_steps
        self.waiting = 0
        self.updates = 0
        self.newest: TensorDictBase | None = None  # the pairs of the last batch

    def extend(self, batch: TensorDictBase) -> None:
        self.waiting += int(episode_ends(batch).sum())
        model = self.fitter.model
        self.newest = pairs(batch, model.infer_per == "team", model.state_key)
        if len(self.newest):  # all of the batch may have been dropped by crashes
            self.replay_buffer.extend(self.newest.cpu())  # its storage's device: the writer's row numbers go with it

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        due, self.waiting = divmod(self.waiting, self.every)
        taken: list[dict[str, torch.Tensor]] = []
        steps = due * self.steps
        for _ in range(steps if self.max_steps is None else min(steps, self.max_steps)):
            batch = one_agent_each(self.replay_buffer.sample(self.batch_size).to(self.fitter.device))
            taken.append(self.fitter.step(batch, lr=self.lr))
        if due:
            self._refresh_spread()
        self.updates += due
        names = dict.fromkeys(name for terms in taken for name in terms)
        means = {name: torch.stack([terms[name] for terms in taken if name in terms]).mean() for name in names}
        return {f"state_model/{name}": float(value) for name, value in means.items()}

    def _refresh_spread(self) -> None:
        """Measures anew what regression and last step leave open, on the newest pairs, which were hardly fitted yet."""
        batch = self.newest[torch.randperm(len(self.newest))[:SPREAD_ROWS]]
        x, s = living_rows(batch, self.fitter.model)
        if len(x):  # all of the batch may have been dropped by crashes
            self.fitter.update_final_scale(x, s)

    def state_dict(self) -> dict[str, Any]:
        return {"waiting": self.waiting, "updates": self.updates, "fitter": self.fitter.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.waiting, self.updates = state_dict["waiting"], state_dict["updates"]
        self.fitter.load_state_dict(state_dict["fitter"])

    def register(self, trainer: Trainer, name: str = "state_model") -> None:
        trainer.register_op("batch_process", self.extend)
        trainer.register_op("post_steps_log", self.update)
        trainer.register_module(name, self)
        trainer.register_module(f"{name}_buffer", FilledRows(self.replay_buffer))


class InputStatistics(TrainerHookBase):
    """Updates the running input normalisation of actor and critic, after the policy update.

    Args:
        modules: modules in which a :class:`RunningNorm` may sit behind the first concatenation of inputs.
        warm_up: gives a first rollout, from which the statistics start; without it the first update would be made on
            inputs of quite another scale than the second.
        trainer: to see whether a resumed run is past that.
    """

    def __init__(self, modules: Sequence[nn.Module], warm_up: Callable[[], TensorDictBase], trainer: Trainer) -> None:
        self.modules = [module for module in modules if running_norms(module)]
        self.warm_up, self.trainer = warm_up, trainer

    def start(self) -> None:
        if self.modules and self.trainer.collected_frames == 0:
            self.update(self.warm_up())

    def update(self, batch: TensorDictBase) -> None:
        for module in self.modules:
            update_input_statistics(module, batch)

    def register(self, trainer: Trainer, name: str = "input_statistics") -> None:
        trainer.register_op("setup", self.start)
        trainer.register_op("post_steps_log", self.update)


class Clock(TrainerHookBase):
    """Seconds spent collecting, inferring (a part of collecting) and updating; frames per second.

    Args:
        state_model: its forward passes are timed while a batch is collected, or None.
    """

    def __init__(self, state_model: nn.Module | None) -> None:
        self.seconds = {"collect": 0.0, "infer": 0.0, "update": 0.0, "state_model": 0.0}
        self.frames = 0
        self._mark = self._infer_start = time.perf_counter()
        self._collecting = False
        if state_model is not None:
            state_model.register_forward_pre_hook(self._infer_begins)
            state_model.register_forward_hook(self._infer_ends)

    def _infer_begins(self, *_: Any) -> None:
        self._infer_start = time.perf_counter()

    def _infer_ends(self, *_: Any) -> None:
        if self._collecting:
            self.seconds["infer"] += time.perf_counter() - self._infer_start

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._mark
        self._mark = now

    def start(self) -> None:
        self._collecting, self._mark = True, time.perf_counter()

    def collected(self, batch: TensorDictBase) -> None:
        self._lap("collect")
        self._collecting = False
        self.frames += batch.numel()

    def updated(self) -> None:
        self._lap("update")

    def state_model_updated(self, batch: TensorDictBase) -> dict[str, float]:
        self._lap("state_model")
        total = self.seconds["collect"] + self.seconds["update"] + self.seconds["state_model"]
        shares = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return {
            **shares,
            "time/frames_per_second": self.frames / total,
            "time/infer_share": self.seconds["infer"] / total,
        }

    def state_dict(self) -> dict[str, Any]:
        return {**self.seconds, "frames": self.frames}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.frames = int(state_dict["frames"])
        self.seconds = {name: float(state_dict[name]) for name in self.seconds}


class Evaluation(TrainerHookBase):
    """Evaluates every so many frames, and once more on more episodes at the end (the absolute metric).

    Args:
        trainer: gives the number of frames.
        evaluate: returns metrics by name; ``evaluate(final)``.
        every: frames between two evaluations; 0 for none but the last.
    """

    def __init__(self, trainer: Trainer, evaluate: Callable[[bool], dict[str, float]], every: int) -> None:
        self.trainer, self.evaluate, self.every = trainer, evaluate, every
        self.evaluated = 0

    def __call__(self, batch: TensorDictBase) -> dict[str, float] | None:
        frames = self.trainer.collected_frames
        final = frames >= self.trainer.total_frames
        due = self.every > 0 and frames // self.every > self.evaluated // self.every
        if not (due or final):
            return None
        self.evaluated = frames
        prefix = "final" if final else "eval"
        return {f"{prefix}/{name}": value for name, value in self.evaluate(final).items()}

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self.evaluated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluated = state_dict["evaluated"]

    def register(self, trainer: Trainer, name: str = "evaluation") -> None:
        trainer.register_op("post_steps_log", self)
        trainer.register_module(name, self)


class Table(TrainerHookBase):
    """``progress.csv``: one row an iteration with all that was logged, in step with the checkpoint after a resume."""

    def __init__(self, trainer: Trainer, path: Path) -> None:
        self.trainer, self.path = trainer, path
        self.rows: list[dict[str, float]] = []
        self.current: dict[str, float] = {}
        self.columns: list[str] = []

    def add(self, scalars: dict[str, Any]) -> None:
        for name, value in scalars.items():
            try:
                self.current[name] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                kind = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
                raise UserError(
                    f"a hook logs {name}, expected one number, got {kind}: log each by a name of its own, such as "
                    f"{name}_0 and {name}_1."
                ) from error

    def end_row(self) -> None:
        row = {"frames": float(self.trainer.collected_frames), **self.current}
        self.rows.append(row)
        self.current = {}
        if set(row) <= set(self.columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        else:
            self.rewrite()

    def rewrite(self) -> None:
        """Writes the whole table: where a new column has come up, or rows were taken back by a resume."""
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_rows(self.path, self.columns, self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]
        self.rewrite()
