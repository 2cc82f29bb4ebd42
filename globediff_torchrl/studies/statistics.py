"""Statistics over runs: means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979).

    Args:
        values: one number a run, i.e. a seed.
        level: coverage.
        resamples: bootstrap samples.
        seed: of the resampling, so that a table can be made again.

    Returns:
        lower and upper end; NaN for fewer than two values, from which no spread can be told.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (resamples, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences between two sorts of runs, seed by seed, and its standard error.

    Args:
        values, baseline: one number a seed, in the same order.

    Returns:
        the mean difference and its standard error; NaN for an error of fewer than two seeds, both NaN for none.

    Raises:
        ValueError: they are not of the same length.
    """
    if len(values) != len(baseline):
        raise ValueError(f"both must have a value for each seed, got {len(values)} and {len(baseline)}")
    differences = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    count = len(differences)
    mean = float(differences.mean()) if count else float("nan")
    return mean, float(differences.std(ddof=1) / count**0.5) if count > 1 else float("nan")
