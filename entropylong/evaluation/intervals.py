"""95 % intervals of scores. Pure scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap

Interval = tuple[float, float]


def wilson(right: int, total: int) -> Interval:
    """Of a share of right answers (Wilson)."""
    found = binomtest(right, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Of a mean, by bootstrap over the values (percentiles); the mean itself where all are equal."""
    array = np.asarray(values, np.float64)
    if len(array) < 2 or np.ptp(array) == 0:
        return float(array.mean()), float(array.mean())
    found = bootstrap((array,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
