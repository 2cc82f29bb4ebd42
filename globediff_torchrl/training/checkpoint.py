"""What a checkpoint holds besides the modules, and how a run finds the one to resume from."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

from tensordict import TensorDict
from torchrl.checkpoint import Checkpoint, CheckpointError, CheckpointRotation, GlobalRNGState
from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer
from tqdm import tqdm

from globediff_torchrl.envs import load_simulator_state, set_vmas_rng_state, simulator_state, vmas_rng_state
from globediff_torchrl.errors import UserError

FOLDER = "checkpoints"
SIZES = "sizes.json"


class RandomState:
    """All random streams of the process: Python's, NumPy's, torch's, and the one that VMAS keeps for itself."""

    def state_dict(self) -> dict[str, Any]:
        return {"process": GlobalRNGState().state_dict(), "vmas": vmas_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        GlobalRNGState().load_state_dict(state_dict["process"])
        set_vmas_rng_state(state_dict["vmas"])


class SimulatorState:
    """Where the simulator is in the middle of an episode; needed where a batch is not made of whole episodes.

    Holds every tensor of the simulator, the transforms' memories, and the tensordict from which the collector takes
    its next step.
    """

    def __init__(self, env: EnvBase, collector: Collector) -> None:
        self.env, self.collector = env, collector

    def state_dict(self) -> dict[str, Any]:
        carrier = self.collector._carrier.exclude("next").flatten_keys("/")
        return {"simulator": simulator_state(self.env), "carrier": dict(carrier.clone().items())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_simulator_state(self.env, state_dict["simulator"])
        carrier = TensorDict(state_dict["carrier"], self.env.batch_size).unflatten_keys("/")
        self.collector._carrier.update(carrier)


def write_sizes(folder: Path) -> None:
    """Lists the size of every file below ``folder``: a torn memory-mapped one would be filled up with zeros."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    (folder / SIZES).write_text(json.dumps(sizes))


def check_sizes(folder: Path) -> None:
    """Raises OSError where a file below ``folder`` is missing or has another size than when it was written."""
    for name, size in json.loads((folder / SIZES).read_text()).items():
        found = (folder / name).stat().st_size
        if found != size:
            raise OSError(f"{name} has {found} bytes, expected {size}: it is torn")


class SafeRotation(CheckpointRotation):
    """A rotation that keeps the last good checkpoint when a new one cannot be written, and says so once."""

    def save(self, checkpoint: Checkpoint, *, step: int, **kwargs: Any) -> Path:
        try:
            path = super().save(checkpoint, step=step, **kwargs)
            write_sizes(path)
            return path
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise UserError(
                f"the checkpoint at frame {step} could not be written to {self.directory}: {reason}. The one before "
                f"({self.latest()}) is whole. Free some space and resume with resume={self.directory.parent}."
            ) from error


def load_newest(trainer: Trainer, run: Path) -> int | None:
    """Loads the newest checkpoint of ``run`` that can be read, and returns its frame; ``None`` if there is none.

    A torn or incompatible checkpoint is passed over for the one before, with one message.
    """
    for path in sorted((run / FOLDER).glob("checkpoint*"), reverse=True):
        try:
            check_sizes(path)
            trainer.load_from_file(path)
            return trainer.collected_frames
        except (CheckpointError, OSError, RuntimeError, KeyError, ValueError, json.JSONDecodeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            tqdm.write(f"The checkpoint {path} cannot be read ({first}); trying the one before.")
    return None


class StopOnSignal:
    """Ends the run at the next iteration, with a checkpoint, on SIGTERM or Ctrl-C; a second Ctrl-C ends it at once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self.previous[number] = signal.signal(number, self._stop)
            except ValueError:  # not in the main thread (a sweep's worker): the signals are not ours to take
                break
        return self

    def _stop(self, number: int, frame: Any) -> None:
        if self.trainer.collected_frames == 0:  # pretraining keeps its own progress file
            raise KeyboardInterrupt
        signal.signal(number, self.previous[number])
        tqdm.write(f"{signal.Signals(number).name}: stopping after this iteration; process {os.getpid()}.")
        self.trainer.request_stop(reason=signal.Signals(number).name)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
