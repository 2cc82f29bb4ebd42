"""Squared error as a share of the mean predictor's, of rows that may come in parts."""

from __future__ import annotations

import torch
from torch import Tensor

from globediff_torchrl.state_models.numerics import statistics


def relative_error(inferred: Tensor, state: Tensor, active: Tensor | None = None) -> float | None:
    """Mean squared error in units of the state's variance, averaged over the dimensions that vary.

    ``mean_j sum_i (s_hat_ij - s_ij)^2 / sum_i (s_ij - mean_i s_ij)^2`` over rows i, without weights: of a dim that
    hardly moves in these rows the divisor is small, and one such dim can decide the mean. Those vary that
    :func:`~globediff_torchrl.state_models.numerics.statistics` does not call constant.

    Args:
        inferred: ``[M, n, d_s]``.
        state: ``[M, n, d_s]``, or ``[M, 1, d_s]`` where it is the same for all agents.
        active: ``[M, n, 1]``: the rows of dead agents do not count; None for all alive.

    Returns:
        the error as a share of the mean predictor's, None where nothing varies.

    Example:
        >>> relative_error(torch.zeros(2, 1, 1), torch.tensor([-1.0, 1.0]).reshape(2, 1, 1))
        1.0
    """
    error = RelativeError()
    error.add(inferred, state, active)
    return error.value()


class RelativeError:
    """:func:`relative_error` of all the rows added so far, as if they had come at once.

    Not a mean over the parts: within a small part the state varies less than it does over all, or not at all.

    Attributes:
        count: rows of living agents.
        squares: sum of squared errors ``[d_s]``.
        mean, m2: of the state, and the sum of squared distances from it ``[d_s]``.
        low, high: the state's smallest and largest numbers ``[d_s]``.
    """

    def __init__(self) -> None:
        self.count = 0
        self.squares, self.mean, self.m2, self.low, self.high = (torch.zeros(()) for _ in range(5))

    def add(self, inferred: Tensor, state: Tensor, active: Tensor | None = None) -> None:
        """Shapes as in :func:`relative_error`."""
        state = state.expand_as(inferred)
        alive = torch.ones_like(state[..., 0], dtype=torch.bool)
        if active is not None:
            alive = active.squeeze(-1).expand_as(alive)
        state, inferred = state[alive], inferred[alive]
        rows = len(state)
        if not rows:
            return
        squares = (inferred - state).double().square().sum(0)
        mean, low, high = state.double().mean(0), state.amin(0), state.amax(0)
        m2 = (state - mean).square().sum(0)
        if self.count:  # Chan et al. 1983
            share, apart = rows / (self.count + rows), mean - self.mean
            m2 = self.m2 + m2 + apart.square() * self.count * share
            mean, squares = self.mean + apart * share, self.squares + squares
            low, high = low.minimum(self.low), high.maximum(self.high)
        self.squares, self.mean, self.m2, self.low, self.high = squares, mean, m2, low, high
        self.count += rows

    def value(self) -> float | None:
        """The share, None without rows or where nothing varies."""
        if not self.count:
            return None
        _, _, constant = statistics(torch.stack([self.low, self.high]))
        return None if constant.all() else float((self.squares / self.m2)[~constant].mean())
