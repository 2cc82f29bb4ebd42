"""Offline data for the state model: pairs (x, s) on disk, memory-mapped, reusable by any run on the same task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import TrainerHookBase
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.envs.processes.crashed import drop_crashed
from globediff_torchrl.errors import UserError
from globediff_torchrl.files import allocate, replacing
from globediff_torchrl.state_models import StateModel
from globediff_torchrl.state_models.reading import read_pairs

META = "dataset.json"
# the entries of the configuration that a description's names come from, for whoever has to change one
ENTRIES = {
    "aux": "algorithm.aux",
    "hidden": "env.hide",
    "aux_dim": "the size of x, of algorithm.aux and env.history,",
    "state_dim": "the size of s, of the environment's state,",
    "per_team": "algorithm.state_model.infer_per",
    "asked": "pretrain.frames",
    "behaviour": "pretrain.behaviour",
    "max_steps": "env.max_steps",
    "kwargs": "env.kwargs, with what else of env the simulator is given,",
    "code": "the scenario's code",
}
SIZES = "sizes.json"
BEGUN = "incomplete"  # lies in the folder until the dataset is complete: what is there may be collected anew


def write_byte_counts(folder: Path) -> None:
    """Lists the size of every file below ``folder``: a torn memory-mapped one would be filled up with zeros."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    sizes.pop(BEGUN, None)
    (folder / SIZES).write_text(json.dumps(sizes), encoding="utf-8")


def check_byte_counts(folder: Path) -> None:
    """Raises OSError where a file below ``folder`` is missing or has another size than when it was written."""
    for name, size in json.loads((folder / SIZES).read_text(encoding="utf-8")).items():
        found = (folder / name).stat().st_size
        if found != size:
            raise OSError(f"{name} has {found} bytes, expected {size}: it is torn")


def pairs(batch: TensorDictBase, per_team: bool, target: NestedKey = keys.STATE) -> TensorDictBase:
    """The pairs (x, s) of a rollout, flattened over its batch dimensions.

    Args:
        batch: holds ``("agents", "aux_observation") [*B, n, d_x]`` and the target.
        per_team: keep the first agent's x alone, where one inference serves the team; it counts while anyone lives.
        target: key of s: ``"state" [*B, d_s]``, or ``("agents", "target_state") [*B, n, d_t]``.

    Returns:
        a tensordict of batch size ``[prod(*B)]``, less the steps that a crash of the simulator has made invalid, with
        the same two keys and ``("agents", "active_mask")`` if given.
    """
    chosen = batch.select(keys.AUX_OBSERVATION, keys.ACTIVE_MASK, target, strict=False)
    if per_team:
        agents = chosen.get(keys.AGENTS).apply(lambda value: value[..., :1, :], batch_size=batch.batch_size)
        chosen.set(keys.AGENTS, agents)
        if keys.ACTIVE_MASK in batch.keys(True):
            chosen.set(keys.ACTIVE_MASK, batch.get(keys.ACTIVE_MASK).any(-2, keepdim=True))
    valid = batch.get(keys.VALID, None)
    return chosen.reshape(-1) if valid is None else chosen[valid.squeeze(-1)]


def one_agent_each(data: TensorDictBase) -> TensorDictBase:
    """What :func:`pairs` gives ``[M]`` with the pair of one random agent of each moment, of the dead too.

    A batch of M pairs then costs the same however large the team; losses leave the dead out.
    """
    team = data.get(keys.AGENTS)
    n = team.get(keys.AUX_OBSERVATION[-1]).shape[-2]
    if n == 1:
        return data
    moment, agent = torch.arange(len(data), device=data.device), torch.randint(n, (len(data),), device=data.device)
    chosen = team.apply(lambda value: value[moment, agent].unsqueeze(1), batch_size=[len(data)])
    return data.exclude(keys.AGENTS).set(keys.AGENTS, chosen)


def living_rows(data: TensorDictBase, model: StateModel) -> tuple[Tensor, Tensor]:
    """What :func:`pairs` gives with a row for each living agent: x ``[M, d_x]`` and s ``[M, d_s]``."""
    x, s, active = read_pairs(model, data)
    return (x.flatten(0, 1), s.flatten(0, 1)) if active is None else (x[active], s[active])


class PairWriter(TrainerHookBase):
    """Writes the pairs (x, s) that pass by into a memory-mapped tensordict of a fixed number of frames.

    A dataset counts as complete once :meth:`finish` has written its description: an interrupted one is started anew.

    Args:
        path: folder of the dataset.
        frames: number of pairs to keep.
        per_team, target: see :func:`pairs`.

    Raises:
        UserError: the folder holds something else.
    """

    def __init__(self, path: str | Path, frames: int, per_team: bool, target: NestedKey = keys.STATE) -> None:
        self.path = Path(path)
        self.frames, self.per_team, self.target = frames, per_team, target
        self.written = 0
        self.data: TensorDictBase | None = None

    def __call__(self, batch: TensorDictBase) -> None:
        new = pairs(batch, self.per_team, self.target)[: self.frames - self.written]
        if not len(new):  # it is full, or all of the batch has crashed
            return
        if self.data is None:
            self._begin(new)
        self.data[self.written : self.written + len(new)] = new
        self.written += len(new)

    def check(self) -> None:
        """Refuses a folder that holds anything but a dataset that was begun: it would be emptied."""
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / BEGUN).exists():
            raise UserError(
                f"{self.path} holds no dataset of offline pairs, but {next(self.path.iterdir()).name} and the like; "
                f"expected a dataset, or a new folder to collect one into: pass another pretrain.dataset."
            )

    def _begin(self, new: TensorDictBase) -> None:
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / BEGUN).touch()
        for left in self.path.iterdir():
            if left.name != BEGUN:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            data = new[:1].expand(self.frames, *new.shape[1:]).memmap_like(self.path)
            allocate(self.path)
            self.data = data
        except (OSError, RuntimeError):
            shutil.rmtree(self.path, ignore_errors=True)  # room for what else is to be written
            raise

    def finish(self, description: dict[str, Any]) -> TensorDictBase:
        """Marks the dataset as complete and returns it.

        Raises:
            UserError: nothing was written.
        """
        if self.data is None:
            raise UserError(
                f"the behaviour policy gave no pair (x, s) for {self.path}, expected {self.frames:,}: every episode of "
                f"it has crashed. Look at the simulator's own log, or set pretrain.frames higher."
            )
        write_byte_counts(self.path)
        with replacing(self.path / META) as part:
            part.write_text(json.dumps({**description, "frames": self.written}, indent=2), encoding="utf-8")
        (self.path / BEGUN).unlink()
        return self.data[: self.written]

    def register(self, trainer: Trainer, name: str = "pair_writer") -> None:
        trainer.register_op("batch_process", self)


def random_pairs(env: EnvBase, writer: PairWriter, horizon: int, progress: bool = True) -> None:
    """Fills ``writer`` from uniformly random actions, in episodes of ``horizon`` steps."""
    with torch.no_grad(), tqdm(total=writer.frames, desc="random behaviour", disable=not progress, leave=False) as bar:
        while writer.written < writer.frames:
            before = writer.written
            writer(drop_crashed(env.rollout(horizon, break_when_any_done=False)))
            bar.update(writer.written - before)


def load_dataset(path: str | Path, expected: dict[str, Any] | None = None) -> TensorDictBase | None:
    """Opens a dataset, memory-mapped. Returns ``None`` where there is no complete one.

    Args:
        path: folder of the dataset.
        expected: entries that its description must have, e.g. the sizes of x and s.

    Raises:
        UserError: the dataset was collected for something else.
    """
    path = Path(path)
    if not (path / META).exists():
        return None
    try:
        description = dict(json.loads((path / META).read_text(encoding="utf-8")))
        check_byte_counts(path)
        data = TensorDict.load_memmap(path)[: description["frames"]]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the dataset in {path} cannot be read ({error}): expected the files as they were written. Delete the "
            f"folder to collect it anew."
        ) from error
    for name, value in (expected or {}).items():
        if description.get(name) != value:
            held, needed = (_shown(name, one) for one in (description.get(name), value))
            raise UserError(
                f"the dataset in {path} has {ENTRIES.get(name, name)} = {held}, but this run needs {needed}. "
                f"Pass another pretrain.dataset, or delete the folder to collect it anew."
            )
    return data


def _shown(name: str, value: Any) -> str:
    """A value of the description as its entry of the configuration has it."""
    return repr({True: "team", False: "agent"}.get(value, value) if name == "per_team" else value)
