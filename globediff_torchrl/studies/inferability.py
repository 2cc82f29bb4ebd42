"""What can be told of hidden facts: explained variance, calibration and sharpness of estimates and of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.numerics import CONSTANT
from globediff_torchrl.studies.distances import mean_pair_distance


def r_squared(estimate: Tensor, truth: Tensor) -> float:
    """Share of the variance that is explained, ``1 - sum (truth - estimate)^2 / sum (truth - mean truth)^2``.

    1 is perfect, 0 is the mean of these very rows, below 0 is worse than that. NaN where the truth does not vary.

    Args:
        estimate, truth: of one shape.

    Raises:
        UserError: shapes that differ.

    Example:
        >>> r_squared(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
        0.5
    """
    if estimate.shape != truth.shape:
        raise UserError(f"r_squared expects two tensors of one shape, got {estimate.shape} and {truth.shape}.")
    estimate, truth = estimate.double(), truth.double()
    total = (truth - truth.mean()).square().sum() if truth.numel() else torch.zeros(())
    return float(1 - (truth - estimate).square().sum() / total) if total > 0 else float("nan")


def accuracy(scores: Tensor, one_hot: Tensor) -> float:
    """Share of rows whose largest score is at the true type; ``[M, types]`` each. NaN without rows."""
    if scores.shape != one_hot.shape:
        raise UserError(f"accuracy expects two tensors of one shape, got {scores.shape} and {one_hot.shape}.")
    return float((scores.argmax(-1) == one_hot.argmax(-1)).double().mean())


def spread_over_error(samples: Tensor, truth: Tensor) -> float:
    """Spread of the samples as a share of how far the truth lies from their mean; 1 for exact posterior samples.

    Both are root mean squares over all rows and dims. The mean of S samples is off by their variance / S even where
    the sampler is exact, and that part is taken out of the error. Below 1: too narrow, above 1: too wide. The unit of
    the facts does not matter: an error counts as one of at least a millionth of their root mean square.

    Args:
        samples: ``[M, S, *d]``, S at least 2. truth: ``[M, *d]``.

    Raises:
        UserError: shapes that do not fit, fewer than two samples.
    """
    _check(samples, truth)
    samples, truth = samples.double(), truth.double()
    spread = samples.var(1).mean()
    error = (samples.mean(1) - truth).square().mean() - spread / samples.shape[1]
    size = torch.maximum(samples.square().mean(), truth.square().mean())
    least = (CONSTANT**2 * size).clamp(min=torch.finfo(size.dtype).tiny)  # all zero: no spread, over what is no error
    return float((spread / error.clamp(min=least)).sqrt())


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """Share of the truths that lie in the central interval of their samples, each dim by itself.

    The ends are the samples at ``p (S + 1)`` in order, and between two of them the share is interpolated: exact
    posterior samples of a continuous fact then cover ``level`` for any S, not only for many. Where the fact has values
    of positive probability (full health, a type) they cover at least that.

    Args:
        samples: ``[M, S, *d]``. truth: ``[M, *d]``. level: between 0 and 1.

    Raises:
        UserError: shapes that do not fit, or too few samples for the level.
    """
    _check(samples, truth)
    ordered, position = samples.sort(1).values, (1 - level) / 2 * (samples.shape[1] + 1) - 1
    if position < -1e-9:  # 19 samples and a level of .9 are position 0, but for rounding
        raise UserError(f"coverage expects more samples for this level, got {samples.shape[1]}: 19 do for 0.9.")
    below = max(int(position + 1e-9), 0)
    between = max(position - below, 0.0)
    inside = [((ordered[:, i] <= truth) & (truth <= ordered[:, -1 - i])).double().mean() for i in (below, below + 1)]
    return float(torch.lerp(*inside, between))


def energy_score(samples: Tensor, truth: Tensor, chunk: int = 512) -> float:
    """``E|S - truth| - E|S - S'| / 2``, unbiased in the number of samples; lower is better (Gneiting & Raftery 2007).

    Proper: in expectation no sampler scores better than the exact posterior. One sample is scored as a point.

    Args:
        samples: ``[M, S, d]``. truth: ``[M, d]``. chunk: rows at a time.

    Returns:
        mean over rows, in the units of the samples.

    Raises:
        UserError: shapes that do not fit.
    """
    _check(samples, truth, least=1)
    total = 0.0
    for some, true in zip(samples.split(chunk), truth.split(chunk)):
        score = (some - true.unsqueeze(1)).norm(dim=-1).mean(1)
        if some.shape[1] > 1:
            score = score - mean_pair_distance(some) / 2
        total += float(score.double().sum())
    return total / max(len(samples), 1)


def episode_error(
    terms: Tensor, episode: Tensor, statistic: Callable[[Tensor], Tensor], resamples: int = 200, seed: int = 0
) -> float:
    """Standard error of a statistic of sums, by a bootstrap over episodes: the rows of one are not independent.

    Args:
        terms: ``[M, k]``, what is summed. episode: ``[M]`` (long), to which episode a row belongs.
        statistic: sums ``[R, k]`` -> values ``[R]``.
        resamples, seed: of the bootstrap.

    Example:
        >>> episode_error(torch.stack([hit, torch.ones_like(hit)], -1), episode, lambda sums: sums[:, 0] / sums[:, 1])
    """
    _, index = episode.unique(return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    if count < 2:
        return float("nan")
    sums = torch.zeros(count, terms.shape[1], dtype=torch.float64).index_add_(0, index, terms.double())
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    return float(statistic(sums[drawn].sum(1)).std())


def r_squared_error(estimate: Tensor, truth: Tensor, episode: Tensor) -> float:
    """Standard error of :func:`r_squared` over episodes; ``[M]`` each."""
    truth = truth.double()
    terms = torch.stack([(truth - estimate).square(), truth.square(), truth, torch.ones_like(truth)], -1)
    return episode_error(terms, episode, lambda s: 1 - s[:, 0] / (s[:, 1] - s[:, 2].square() / s[:, 3]))


def _check(samples: Tensor, truth: Tensor, least: int = 2) -> None:
    if samples.ndim < 2 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise UserError(f"Expected samples [M, S, *d] and truth [M, *d], got {samples.shape} and {truth.shape}.")
    if samples.shape[1] < least:
        raise UserError(f"Expected at least {least} samples of each row, got {samples.shape[1]}.")
