"""Rows whose x is built as it is needed, for a state model to be fitted to; and its estimate and samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import keys
from globediff_torchrl.state_models import StateModel
from globediff_torchrl.state_models.pairs import random_indices

STATISTICS_ROWS = 16_384  # of a joint history, whose rows are wide


class RowPairs:
    """The pairs (x, s) of some rows, built as :func:`~globediff_torchrl.fit` asks: all would not fit into memory.

    Args:
        model: names the keys.
        build: rows ``[M, ...]`` to x ``[M, d_x]`` and s ``[M, d_s]``.
        rows: ``[R, ...]``, those to draw from.
    """

    def __init__(self, model: StateModel, build: Callable[[Tensor], tuple[Tensor, Tensor]], rows: Tensor) -> None:
        self.model, self.build, self.rows = model, build, rows

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, size: int, generator: torch.Generator) -> TensorDict:
        x, s = self.build(self.rows[torch.randint(len(self.rows), (size,), generator=generator)])
        return TensorDict({self.model.aux_key: x.unsqueeze(1), self.model.state_key: s}, [size])

    def spread(self, size: int) -> tuple[Tensor, Tensor]:
        return self.build(self.rows[random_indices(len(self.rows), min(size, STATISTICS_ROWS))])


@torch.no_grad()
def infer_rows(model: StateModel, x: Tensor, chunk: int = 256) -> tuple[Tensor, Tensor | None]:
    """Point estimate ``[M, d_s]`` and samples ``[M, S, d_s]`` (None of a model without) for x ``[M, d_x]``.

    The estimate is ``("agents", "inferred_mean")`` where the model writes it, else the mean of the samples.
    """
    with set_exploration_type(ExplorationType.RANDOM):
        parts = [model(TensorDict({model.aux_key: some.unsqueeze(1)}, [len(some)])) for some in x.split(chunk)]
    mean, samples = (
        torch.cat([part[key][:, 0] for part in parts]) if key in parts[0].keys(True) else None
        for key in (keys.INFERRED_MEAN, keys.HYPOTHESES)
    )
    return (samples.mean(1) if mean is None else mean), samples
