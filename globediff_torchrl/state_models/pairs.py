"""The pairs (x, s) that a state model is fitted to: random ones for the steps, a sample of all for the statistics."""

from __future__ import annotations

from typing import Protocol

import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torch import Tensor

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.reading import read_pairs

STATISTICS_NUMBERS = 64_000_000  # of x: a joint history of many agents is wide, and fewer of its rows do
SAMPLE_SEED = 20_242
SHUFFLED = 10_000_000  # above so many, drawing with a few repeats is cheaper than shuffling all


class Pairs(Protocol):
    """Where :func:`fit` takes its pairs from, if not from a tensordict: x may then be built as it is needed."""

    def __len__(self) -> int:
        """How many rows there are."""

    def draw(self, size: int, generator: torch.Generator) -> TensorDictBase:
        """``size`` random pairs under the model's keys, x ``[size, 1, d_x]`` and s ``[size, d_s]``."""

    def spread(self, size: int) -> tuple[Tensor, Tensor]:
        """At most ``size`` pairs from all over the data, the same at each call: x ``[M, d_x]``, s ``[M, d_s]``.

        A resumed fit tells by some whether it has the data that it began with.
        """


def random_indices(total: int, size: int) -> Tensor:
    """At most ``size`` of 0 .. total - 1 without repeats, ascending, the same at each call.

    Random, as a fixed stride would meet some agents or times of day only where it shares a factor with their number.
    """
    if total <= size:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    if total <= SHUFFLED:
        return torch.randperm(total, generator=generator)[:size].sort().values
    return torch.randint(total, (size,), generator=generator).unique()


class TensorDictPairs:
    """The pairs of a tensordict: a step and one of its agents each, as x ``[M, 1, d_x]`` beside s ``[M, d_s]``.

    Args:
        model: gives the keys and sizes.
        data: x ``[*N, n, d_x]``, s ``[*N, d_s]`` or ``[*N, n, d_s]``, a mask ``[*N, n, 1]`` if there is one.

    Raises:
        UserError: missing keys, wrong shapes, no row, nobody alive.
    """

    def __init__(self, model: StateModel, data: TensorDictBase):
        x, s, mask = read_pairs(model, data)
        if x.shape[:-2].numel() == 0:
            raise UserError(f"fit expects data with at least one row, got batch size {list(x.shape[:-2])}: was it cut?")
        if mask is not None and not mask.any():
            raise UserError(
                f"fit expects a living agent in the data, got {model.mask_key!r} with none in {mask.numel()}: no "
                "living agent in the data leaves nothing to learn from; is the mask the wrong way round?"
            )
        self.model, self.agents = model, x.shape[-2]
        self.x, self.s = x.reshape(-1, *x.shape[-2:]), s.reshape(-1, *s.shape[-2:])
        self.mask = None if mask is None else mask.reshape(-1, self.agents)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor, agents: Tensor) -> TensorDict:
        """The pairs (step ``rows[i]``, agent ``agents[i]``)."""
        out = {self.model.aux_key: self.x[rows, agents].unsqueeze(1), self.model.state_key: self.s[rows, agents]}
        if self.mask is not None:
            out[self.model.mask_key] = self.mask[rows, agents].reshape(-1, 1, 1)
        return TensorDict(out, [len(rows)]).to(self.model.state_mean.device)

    def draw(self, size: int, generator: torch.Generator) -> TensorDict:
        """``size`` random pairs, of the dead too: the loss leaves those out."""
        rows = torch.randint(len(self.x), (size,), generator=generator)
        agents = torch.randint(self.agents, (size,), generator=generator)
        return self.take(rows, agents)

    def spread(self, size: int) -> tuple[Tensor, Tensor]:
        """At most ``size`` random pairs of living agents, the same at each call: x ``[M, d_x]``, s ``[M, d_s]``."""
        size = max(min(size, STATISTICS_NUMBERS // self.x.shape[-1]), 1)
        if self.mask is None:
            index = random_indices(len(self.x) * self.agents, size)
        else:
            living = self.mask.flatten().nonzero().squeeze(1)
            index = living[random_indices(len(living), size)]
        batch = self.take(index // self.agents, index % self.agents)
        return batch[self.model.aux_key].squeeze(1), batch[self.model.state_key]


def pairs_of(model: StateModel, data: TensorDictBase | Pairs) -> Pairs:
    """``data`` as :class:`Pairs`: of a tensordict as :func:`fit` takes it, a step and one of its agents each.

    Raises:
        UserError: neither of the two, missing keys, wrong shapes, no row, nobody alive.

    Example:
        >>> fitter.set_statistics(*pairs_of(model, data).spread(200_000))
    """
    if hasattr(data, "draw"):
        return data
    if isinstance(data, dict):
        data = TensorDict(data, [])
    if not is_tensor_collection(data):
        raise UserError(
            f"fit expects its data as a TensorDict with {model.aux_key!r} and {model.state_key!r}, or as Pairs, got a "
            f"{type(data).__name__}: of a replay buffer pass buffer[:], of several rollouts torch.cat(rollouts)."
        )
    return TensorDictPairs(model, data)
