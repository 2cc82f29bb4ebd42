"""Distances between two sets of samples: is a sampler's distribution the true one?"""

import torch
from torch import Tensor

from globediff_torchrl.errors import UserError


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased estimate of the energy distance, ``2 E|A - B| - E|A - A'| - E|B - B'|`` (Szekely & Rizzo 2013).

    Zero in expectation where both come from one distribution (so single estimates can be negative), positive otherwise.
    Unlike the Wasserstein distance of finite samples it does not reward samples that spread too little.

    Args:
        a: ``[*B, M, d]``. b: ``[*B, N, d]``. M and N at least 2.

    Returns:
        ``[*B]``, in the units of the samples.

    Raises:
        UserError: dims that differ, or fewer than two samples.

    Example:
        >>> energy_distance(torch.zeros(4, 1), torch.ones(4, 1))
        tensor(2.)
    """
    _check(a, b, 2)
    return 2 * _pairwise(a, b).mean((-2, -1)) - mean_pair_distance(a) - mean_pair_distance(b)


def mean_pair_distance(a: Tensor) -> Tensor:
    """Mean distance of two different samples, an unbiased estimate of ``E|A - A'|``.

    Args:
        a: ``[*B, M, d]``, M at least 2.

    Returns:
        ``[*B]``, in the units of the samples.

    Raises:
        UserError: fewer than two samples.

    Example:
        >>> mean_pair_distance(torch.tensor([[0.0], [1.0]]))
        tensor(1.)
    """
    _check(a, a, 2)
    m = a.shape[-2]
    return _pairwise(a, a).sum((-2, -1)) / (m * (m - 1))


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    # by differences: cdist's matrix product loses all digits of samples that lie close together, far from zero
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def wasserstein2(a: Tensor, b: Tensor) -> Tensor:
    """Squared Wasserstein-2 distance a dimension of two equally large samples, by exact optimal transport.

    Not zero for two samples of one distribution: compare with exact samples against exact samples.

    Args:
        a, b: ``[*B, M, d]``.

    Returns:
        ``[*B]``, mean squared distance of the best matching, divided by d.

    Raises:
        UserError: shapes that differ.

    Example:
        >>> wasserstein2(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]]))
        tensor(4.)
    """
    from scipy.optimize import linear_sum_assignment

    _check(a, b, 1)
    if a.shape != b.shape:
        raise UserError(f"wasserstein2 expects two samples of one size, got {list(a.shape)} and {list(b.shape)}.")
    cost = _pairwise(a, b).square() / a.shape[-1]
    flat = cost.reshape(-1, *cost.shape[-2:])
    best = [c[linear_sum_assignment(c.cpu().numpy())].mean() for c in flat]
    return torch.stack(best).reshape(cost.shape[:-2])


def _check(a: Tensor, b: Tensor, least: int) -> None:
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1] or a.shape[:-2] != b.shape[:-2]:
        raise UserError(f"Expected samples [*B, M, d] and [*B, N, d], got {list(a.shape)} and {list(b.shape)}.")
    if min(a.shape[-2], b.shape[-2]) < least:
        raise UserError(f"Expected at least {least} samples of each, got {a.shape[-2]} and {b.shape[-2]}.")
