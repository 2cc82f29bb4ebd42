"""Torn checkpoints, foreign checkpoints, full disks: one message, and what was good before is still there."""

from __future__ import annotations

import csv
import errno
import re
import resource
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stopped_runs import checkpoints, train_until
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from globediff_torchrl import UserError
from globediff_torchrl.files import FULL, allocate, disk_trouble, replacing
from globediff_torchrl.training.checkpoint import FilledRows
from globediff_torchrl.training.rows import RowStorage

ROOT = Path(__file__).resolve().parent.parent
EVERY = ["checkpoint.every_frames=80", "checkpoint.keep_last=2"]


@pytest.fixture
def two_checkpoints(fast_trainer, tmp_path):
    train_until(fast_trainer("globediff", *EVERY, iterations=4), 160)
    assert [path.name[-4:] for path in checkpoints(tmp_path / "run")] == ["0080", "0160"]
    return tmp_path / "run"


# --------------------------------------------------------------------------------------------------- torn and foreign
def cut(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path):
    """One bit of the largest record; between the records there is padding, which may be anything."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = archive.read(max(archive.infolist(), key=lambda info: info.file_size))
    content[content.index(record) + len(record) // 2] ^= 1
    path.write_bytes(content)


FILES = [
    "manifest.json",
    *(f"components/*{name}/state.pt" for name in ("loss_module", "trainer_state", "model_buffer")),
]


# a flipped letter of the manifest need not break it
DAMAGES = [
    (damage, name) for damage in (cut, flip, Path.unlink) for name in FILES if (damage, name) != (flip, FILES[0])
]


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_with_one_message(
    fast_trainer, two_checkpoints, capsys, damage, name
):
    damage(next(checkpoints(two_checkpoints)[-1].glob(name)))
    capsys.readouterr()
    resumed = fast_trainer("globediff", *EVERY, iterations=4, resume=two_checkpoints)
    said = capsys.readouterr().out
    assert resumed.collected_frames == 80 and "at frame 80" in said
    assert said.count("cannot be read") == 1 and "0160" in said
    resumed.train()
    assert [path.name[-4:] for path in checkpoints(two_checkpoints)] == ["0240", "0320"]
    assert (two_checkpoints / "checkpoints" / "unreadable-checkpoint-000000000160").exists()


def test_a_run_without_a_whole_checkpoint_begins_anew_and_nothing_of_the_damaged_ones_is_in_it(
    fast_trainer, two_checkpoints, tmp_path, capsys
):
    for path in checkpoints(two_checkpoints):
        cut(next(path.glob("components/*trainer_state/state.pt")))
    resumed = fast_trainer("globediff", *EVERY, iterations=4, resume=two_checkpoints)
    fresh = fast_trainer("globediff", *EVERY, iterations=4, folder="fresh")
    assert capsys.readouterr().out.count("cannot be read") == 2
    assert resumed.collected_frames == 0 and resumed.table.rows == []
    for one, two in zip(resumed.team.policy.parameters(), fresh.team.policy.parameters()):
        assert torch.equal(one, two)


def test_a_checkpoint_of_another_run_is_refused_and_left_where_it_is(fast_trainer, two_checkpoints, tmp_path):
    fast_trainer("mappo", folder="other")
    shutil.copytree(two_checkpoints / "checkpoints", tmp_path / "other" / "checkpoints")
    with pytest.raises(UserError, match=r"does not fit this run.*expected one that.*Move it away"):
        fast_trainer("mappo", resume=tmp_path / "other", folder="other")
    assert len(checkpoints(tmp_path / "other")) == 2


def test_what_a_killed_run_had_begun_to_write_is_removed(fast_trainer, two_checkpoints):
    begun = two_checkpoints / "checkpoints" / ".checkpoint-000000000240.stage-0"
    begun.mkdir()
    (begun / "state.pt").write_bytes(b"0")
    assert fast_trainer("globediff", *EVERY, iterations=4, resume=two_checkpoints).collected_frames == 160
    assert not begun.exists()


def test_a_checkpoint_is_as_large_as_what_it_holds(fast_trainer, tmp_path):
    sizes = []
    for capacity in (1_000, 100_000):
        fast_trainer("globediff", f"state_model_update.buffer_size={capacity}", folder=str(capacity)).train()
        files = checkpoints(tmp_path / str(capacity))[-1].rglob("*")
        sizes.append(sum(path.stat().st_size for path in files if path.is_file()))
    assert sizes[1] < 1.01 * sizes[0]


@pytest.mark.parametrize("rows", [7, 10, 23])  # of a capacity of 10
def test_a_replay_buffer_comes_back_row_by_row_and_goes_on_at_the_same_place(rows):
    def data(start, stop):
        return TensorDict({"a": {"x": torch.arange(float(start), stop)}}, [stop - start])

    one, two = (TensorDictReplayBuffer(storage=LazyTensorStorage(10, compilable=True)) for _ in range(2))
    for start in range(0, rows, 4):
        one.extend(data(start, min(start + 4, rows)))
    FilledRows(two).load_state_dict(FilledRows(one).state_dict())
    for buffer in (one, two):
        buffer.extend(data(100, 103))
    assert len(one) == len(two) and torch.equal(one[:]["a", "x"], two[:]["a", "x"])


@pytest.mark.parametrize("rows", [7, 10, 23])  # of a capacity of 10
@pytest.mark.parametrize("capacity", [5, 16])
def test_a_replay_buffer_of_another_capacity_gets_the_newest_rows_by_age(rows, capacity):
    def data(start, stop):
        return TensorDict({"a": torch.arange(float(start), stop)}, [stop - start])

    one, two = (TensorDictReplayBuffer(storage=RowStorage(size)) for size in (10, capacity))
    for start in range(0, rows, 4):
        one.extend(data(start, min(start + 4, rows)))
    FilledRows(two).load_state_dict(FilledRows(one).state_dict())
    ages = list(range(max(rows - 10, 0), rows))[-capacity:]
    assert two[:]["a"].tolist() == ages
    two.extend(data(100, 103))
    assert sorted(two[:]["a"].tolist()) == [*ages, 100, 101, 102][-capacity:]


def test_the_curve_of_the_pretraining_is_kept_with_the_loss_on_pairs_that_were_held_out(fast_trainer, tmp_path):
    trainer = fast_trainer("globediff", "pretrain.steps=60", iterations=1)
    trainer.train()
    with (tmp_path / "run" / "pretraining.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [50, 60]
    assert all(row["validation/loss_diffusion"] > 0 for row in rows)
    assert all(row["validation/loss_diffusion"] != row["loss_diffusion"] for row in rows)


def test_nothing_is_loaded_that_could_run_code():
    for path in [*ROOT.glob("globediff_torchrl/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        text = path.read_text()
        calls = re.findall(r"torch\.load\([^\n]*", text)
        assert all("weights_only=True" in call for call in calls), (path, calls)
        assert not re.search(r"^\s*(import|from) (pickle|joblib|dill)|allow_pickle=True", text, re.M), path


# ---------------------------------------------------------------------------------------------------------- full disk
@pytest.fixture
def small_files():
    """``small_files(bytes)``: from then on no file of this process may grow beyond them, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITTEN = {
    # where the disk is full, by the largest file that still finds room, and what of the run is there by then
    "dataset": (1_000, 0),
    "progress of the fit": (80_000, 0),
    "checkpoint": (60_000, 160),
    "progress.csv": (300, 160),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_a_full_disk_is_one_message_and_the_run_can_go_on(fast_trainer, tmp_path, small_files, what):
    size, frames = WRITTEN[what]
    trainer = fast_trainer("globediff", *EVERY, iterations=4)
    trainer.register_op("post_steps", lambda: small_files(size) if trainer.collected_frames == frames + 80 else None)
    if frames == 0:
        small_files(size)
    with pytest.raises(
        UserError, match=f"({'|'.join(map(re.escape, FULL.values()))}).*[Ff]ree some space.*resume="
    ) as caught:
        trainer.train()
    small_files(resource.RLIM_INFINITY)
    assert str(tmp_path / "run") in str(caught.value)
    resumed = fast_trainer("globediff", *EVERY, iterations=4, resume=tmp_path / "run")
    assert resumed.collected_frames == frames
    assert resumed.train()["complete"]


@pytest.mark.parametrize("name", ["policy.safetensors", "summary.json", "learning_curve.png"])
def test_a_disk_that_is_full_at_the_end_leaves_the_results_to_the_resume(fast_trainer, tmp_path, monkeypatch, name):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    options = ["progress=true", "evaluation.final_episodes=2"]
    with monkeypatch.context() as patch:
        if name == "learning_curve.png":
            patch.setattr("globediff_torchrl.training.results.learning_curve", full)
        else:
            monkeypatch_write(patch, name, full)
        with pytest.raises(UserError, match=r"the disk is full.*Free some space"):
            fast_trainer("mappo", *options).train()
    results = fast_trainer("mappo", *options, resume=tmp_path / "run").train()
    assert results["complete"] and all((tmp_path / "run" / file).exists() for file in ("summary.json", name))


def monkeypatch_write(patch, name, full):
    write = Path.write_text

    def write_text(self, *args, **kwargs):
        return full() if self.name.startswith(name) else write(self, *args, **kwargs)

    patch.setattr(Path, "write_text", write_text)
    if name == "policy.safetensors":
        patch.setattr("globediff_torchrl.training.results.save_file", full)


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_every_library_s_word_for_a_full_disk_is_understood(tmp_path, small_files, save):
    small_files(100_000)
    with pytest.raises(Exception) as caught:
        save({"a": torch.zeros(100_000)}, tmp_path / "file")
    small_files(resource.RLIM_INFINITY)
    assert disk_trouble(caught.value) is not None, caught.value


def test_other_errors_are_not_taken_for_a_full_disk():
    assert disk_trouble(RuntimeError("shape mismatch")) is None
    assert disk_trouble(PermissionError(errno.EACCES, "no")) is None


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_room_of_a_memory_mapped_file_is_claimed_before_it_is_written_to(tmp_path):
    with (tmp_path / "a.memmap").open("wb") as file:
        file.truncate(1 << 20)
    assert (tmp_path / "a.memmap").stat().st_blocks == 0
    allocate(tmp_path)
    assert (tmp_path / "a.memmap").stat().st_blocks * 512 >= 1 << 20
