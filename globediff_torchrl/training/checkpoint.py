"""What a checkpoint holds besides the modules, how it is written, and how a run finds the one to resume from."""

from __future__ import annotations

import os
import shutil
import signal
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointRotation,
    GlobalRNGState,
    StateDictCheckpointAdapter,
)
from torchrl.collectors import Collector
from torchrl.data import ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer
from tqdm import tqdm

from globediff_torchrl.envs import load_simulator_state, set_vmas_rng_state, simulator_state, vmas_rng_state
from globediff_torchrl.errors import UserError
from globediff_torchrl.files import disk_trouble
from globediff_torchrl.training.run_files import CHECKPOINTS


class RandomState:
    """All random streams of the process: Python's, NumPy's, torch's, and the one that VMAS keeps for itself.

    A run may be resumed on a machine with fewer accelerators: the streams of those that are missing are left out, which
    TorchRL's own state refuses.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"process": GlobalRNGState().state_dict(), "vmas": vmas_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        process = dict(state_dict["process"])
        here = {"torch_cuda": torch.cuda, "torch_xpu": torch.xpu, "torch_mps": torch.backends.mps}
        for name, devices in here.items():
            if name in process and not devices.is_available():
                del process[name]
        if "torch_cuda" in process:
            process["torch_cuda"] = process["torch_cuda"][: torch.cuda.device_count()]
        GlobalRNGState().load_state_dict(process)
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


class NewEpisodes:
    """In place of :class:`SimulatorState` where the simulator cannot be saved: a resumed run begins new episodes.

    They are drawn under a seed that follows from the run's own and from how often it was resumed, so that no run plays
    its first episodes twice.
    """

    def __init__(self, env: EnvBase, collector: Collector, seed: int) -> None:
        self.env, self.collector, self.seed = env, collector, seed
        self.resumes = 0

    def state_dict(self) -> dict[str, Any]:
        return {"resumes": self.resumes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumes = state_dict["resumes"] + 1
        self.env.set_seed((self.seed + 1_000_003 * self.resumes) % 2**31)
        self.collector.reset()


class FilledRows:
    """The rows of a replay buffer that have been written, each in its place, and where the next ones go.

    The buffer's own ``dump`` writes its whole capacity. A buffer of another capacity gets the newest that it can hold,
    by age: their places are no longer those of the old one.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer

    def state_dict(self) -> dict[str, Any]:
        filled = len(self.buffer)
        rows = self.buffer.storage[:filled].clone().to_dict() if filled else {}
        writer, capacity = self.buffer.writer.state_dict(), self.buffer.storage.max_size
        return {"filled": filled, "rows": rows, "writer": writer, "capacity": capacity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        filled, writer, capacity = state_dict["filled"], state_dict["writer"], self.buffer.storage.max_size
        same = state_dict.get("capacity", capacity) == capacity  # older checkpoints do not say
        self.buffer.empty()
        if filled:
            rows = TensorDict.from_dict(state_dict["rows"], batch_size=[filled])
            self.buffer.extend(rows if same else rows[torch.arange(filled).roll(-writer["_cursor"])[-capacity:]])
        if same:
            self.buffer.writer.load_state_dict(writer)


class TorchFiles(StateDictCheckpointAdapter):
    """One file a component, by ``torch.save``; read with ``weights_only``.

    TorchRL's default is memory-mapped files: a torn one reads as zeros, and a full disk ends the process by SIGBUS.
    """

    def save(self, component: Any, path: Path, *, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        path.mkdir(parents=True, exist_ok=True)
        state = component.state_dict(*args, **kwargs)
        with (path / self.state_torch).open("wb") as file:  # torch would hide the errno behind one of its own
            torch.save(state, file)
        return state


def make_checkpoint() -> Checkpoint:
    """A checkpoint that writes all its components as :class:`TorchFiles`."""
    return Checkpoint().register_adapter(object, TorchFiles())


class SafeRotation(CheckpointRotation):
    """A rotation that keeps the last good checkpoint when a new one cannot be written.

    Raises:
        UserError: in save, a disk that is full or refuses: it names the checkpoint that is whole, and ends the run.
    """

    def save(self, checkpoint: Checkpoint, *, step: int, **kwargs: Any) -> Path:
        try:
            return super().save(checkpoint, step=step, **kwargs)
        except Exception as error:
            reason = disk_trouble(error) or (str(error) if isinstance(error, OSError) else None)
            if reason is None:
                raise
            kept = self.latest()
            before = f"The one before ({kept}) is whole." if kept else "There is none before it."
            raise UserError(
                f"the checkpoint at frame {step} could not be written to {self.directory}: {reason}. {before} "
                f"Expected room for it: free some space and resume with resume={self.directory.parent}."
            ) from error


TORN = (CheckpointError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile)


def check_whole(path: Path) -> None:
    """Reads every file of a checkpoint against its checksums.

    Raises:
        CheckpointError, OSError, BadZipFile: something is missing or torn.
    """
    components = Checkpoint.manifest(path)["components"]
    for record in components.values():
        for name in record["files"]:
            with zipfile.ZipFile(path / record["path"] / name) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise zipfile.BadZipFile(f"{name} of {record['path']} is damaged at {bad}")


def load_newest(trainer: Trainer, run: Path) -> int | None:
    """Loads the newest whole checkpoint of ``run``, and returns its frame; ``None`` if there is none.

    A torn or incomplete one is put aside, with one message, for the one before. What a killed run had begun to write
    is removed.

    Raises:
        UserError: a checkpoint is whole but of another run.
    """
    for begun in (run / CHECKPOINTS).glob(".checkpoint*"):
        shutil.rmtree(begun, ignore_errors=True)
    for path in sorted((run / CHECKPOINTS).glob("checkpoint-*"), reverse=True):
        try:
            check_whole(path)
        except TORN as error:
            aside = path.with_name(f"unreadable-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)  # or the rotation would count it among the newest, and remove good ones
            tqdm.write(
                f"The checkpoint {path} cannot be read ({_first(error)}) and is now {aside.name}; "
                f"trying the one before."
            )
            continue
        try:
            trainer.load_from_file(path, mmap=False)
        except (CheckpointError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"the checkpoint {path} is whole, but it does not fit this run ({_first(error)}): expected one that "
                f"this configuration and these versions wrote. Move it away to go on from the one before."
            ) from error
        trainer.resumed_from = path
        return trainer.collected_frames
    return None


def load_module(trainer: Trainer, name: str, path: Path) -> None:
    """Loads what the checkpoint holds of one module, which was registered after all others were loaded from it.

    The random streams are set back with it: what the module drew when it was made, the run had drawn at its start.

    Raises:
        UserError: the module does not take it.
    """
    component = f"trainer_module.{name}"
    if component not in trainer.checkpoint:  # no state_dict: TorchRL has warned of it
        return
    if component not in Checkpoint.manifest(path)["components"]:
        tqdm.write(f"{path} holds nothing of {name}, which was registered with this run: it begins anew.")
        return
    try:
        chosen = [component, "trainer_module.random_state"]
        reading = {"weights_only": True, "mmap": False}
        trainer.checkpoint.load(path, components=chosen, map_location="cpu", tensor_load_kwargs=reading)
    except CheckpointError as error:
        raise UserError(
            f"the module {name} does not take what {path} holds of it ({_first(error)}): expected the module that the "
            f"run was started with. Register that one, or another one by a name of its own."
        ) from error


def newest_policy(run: Path, device: torch.device) -> tuple[Path, dict[str, torch.Tensor]] | None:
    """The newest whole checkpoint of ``run`` and the policy's weights in it; None if there is none.

    Changes nothing in the folder: the run may be going on.
    """
    for path in sorted((run / CHECKPOINTS).glob("checkpoint-*"), reverse=True):
        try:
            check_whole(path)
            record = Checkpoint.manifest(path)["components"]["collector"]  # what acts: state model and actor together
            file = path / record["path"] / record["files"][0]
            return path, torch.load(file, map_location=device, weights_only=True)["policy_state_dict"]
        except TORN:
            continue
    return None


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(line.strip() for line in lines[:2]) if lines else type(error).__name__


class Stopped(KeyboardInterrupt):
    """A signal that ends the run at once; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopOnSignal:
    """Ends the run at the next iteration, with a checkpoint, on SIGTERM or Ctrl-C; a second one ends it at once.

    ``trainer.stopped_by`` then has the signal's number, for whoever would go on with another run. Before the
    first batch is collected there is nothing to save beyond the pretraining's own progress file, and the first signal
    ends the run at once, too.

    Raises:
        Stopped: at once.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.previous: dict[int, Any] = {}
        self.asked = False

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self.previous[number] = signal.signal(number, self._stop)
            except ValueError:  # not in the main thread (a sweep's worker): the signals are not ours to take
                break
        return self

    def _stop(self, number: int, frame: Any) -> None:
        if self.asked or self.trainer.collected_frames == 0:
            raise Stopped(number)
        self.asked = True
        self.trainer.stopped_by = number
        tqdm.write(f"{signal.Signals(number).name}: stopping after this iteration; process {os.getpid()}.")
        self.trainer.request_stop(reason=signal.Signals(number).name)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
