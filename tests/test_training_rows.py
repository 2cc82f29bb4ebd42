"""The storage that gathers rows: the same rows as TorchRL's, in the same order."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer

from globediff_torchrl.training.rows import RowStorage


def batch_of(rows: int) -> TensorDict:
    """Rows of chunks of three steps, with entries of two agents and of the team."""
    team = TensorDict(
        {"observation": torch.randn(rows, 3, 2, 4), "alive": torch.rand(rows, 3, 2, 1) > 0.5}, (rows, 3, 2)
    )
    return TensorDict(
        {"agents": team, "state": torch.randn(rows, 3, 5), "step": torch.arange(rows * 3).view(rows, 3)}, (rows, 3)
    )


@pytest.mark.parametrize("rows", [20, 12])  # the storage is full, or is not
def test_a_buffer_draws_what_it_draws_from_the_storage_of_torchrl(rows):
    batch, drawn = batch_of(rows), []
    for storage in (RowStorage, LazyTensorStorage):
        torch.manual_seed(0)
        buffer = TensorDictReplayBuffer(
            storage=storage(20, compilable=True), sampler=SamplerWithoutReplacement(), batch_size=4
        )
        buffer.extend(batch)
        drawn.append(torch.cat([buffer.sample() for _ in range(2 * rows // 4)]))
    ours, theirs = drawn
    assert (ours == theirs).all() and ours["agents"].batch_size == theirs["agents"].batch_size == (2 * rows, 3, 2)
    assert set(ours.keys(True, True)) == set(theirs.keys(True, True))


def test_a_row_is_a_copy_and_other_indices_are_served_by_torchrl():
    storage, batch = RowStorage(6), batch_of(6)
    storage.set(range(6), batch)
    storage.get(torch.tensor([1, 4]))["state"].zero_()
    assert (storage.get(slice(0, 6)) == batch).all() and (storage.get(4) == batch[4]).all()
    assert (storage.get(torch.tensor([[0, 5], [2, 2]])) == batch[torch.tensor([[0, 5], [2, 2]])]).all()
