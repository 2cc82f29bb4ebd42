"""Distances between two sets of samples: is a sampler's distribution the true one?"""

import torch
from torch import Tensor

from globediff_torchrl.errors import UserError


def energy_distance(a: Tensor, b: Tensor, groups: Tensor | None = None) -> Tensor:
    """Unbiased estimate of the energy distance, ``2 E|A - B| - E|A - A'| - E|B - B'|`` (Szekely & Rizzo 2013).

    Zero in expectation where both come from one distribution (so single estimates can be negative), positive otherwise.
    Unlike the Wasserstein distance of finite samples it does not reward samples that spread too little.

    The rows of an episode are not independent: they share its hidden facts, and ``b``'s are what ``a``'s were told of.
    With ``groups`` only rows of different groups are compared, in all three terms: the mean over all ways to take A
    from one half of the episodes and B from the other. It is 0 in expectation where A is drawn from the posterior.

    Args:
        a: ``[*B, M, d]``. b: ``[*B, N, d]``. M and N at least 2.
        groups: ``[M]`` (long), the episode of row i of ``a [M, d]`` and of ``b [M, d]``; None: all rows independent.

    Returns:
        ``[*B]``, in the units of the samples.

    Raises:
        UserError: dims that differ, fewer than two samples, or than two groups.

    Example:
        >>> energy_distance(torch.zeros(4, 1), torch.ones(4, 1))
        tensor(2.)
    """
    _check(a, b, 2)
    if groups is not None:
        _check_groups(a, b, groups)
        across = 2 * _mean_across(a, b, groups) - _mean_across(a, a, groups) - _mean_across(b, b, groups)
        return across.to(a.dtype)
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


def _mean_across(a: Tensor, b: Tensor, groups: Tensor, chunk: int = 1024) -> Tensor:
    total, pairs = torch.zeros((), dtype=torch.float64, device=a.device), 0
    for rows, of in zip(a.split(chunk), groups.split(chunk)):  # all pairs at once would be M x M numbers
        apart = of.unsqueeze(1) != groups
        total += (_pairwise(rows, b) * apart).sum(dtype=torch.float64)
        pairs += int(apart.sum())
    return total / pairs


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


def _check_groups(a: Tensor, b: Tensor, groups: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape or groups.shape != a.shape[:1]:
        shapes = f"{list(a.shape)}, {list(b.shape)} and {list(groups.shape)}"
        raise UserError(f"Expected two samples [M, d] and their groups [M], got {shapes}.")
    if not (groups != groups[0]).any():
        raise UserError(f"Expected rows of at least 2 groups, got {len(groups)} of one: run more episodes.")
