"""95 % intervals of scores. Pure scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap

Interval = tuple[float, float]


def wilson(right: int, total: int) -> Interval:
    """Of a share of right answers (Wilson)."""
    found = binomtest(right, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def ratio_interval(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """Of the ratio of two independent shares, each (right, total): Donner and Zou (2012), from the limits of Wilson.

    It holds where the first share is 0; `scipy.stats.contingency.relative_risk` has no limit there.

    Raises:
        ValueError: the second share is 0.
    """
    (p, low_p, high_p), (q, low_q, high_q) = ((right / total, *wilson(right, total)) for right, total in (first, second))
    if not q:
        raise ValueError("the ratio to a share of 0 has no limits")

    def root(end_p: float, end_q: float) -> float:
        return math.sqrt((p * q) ** 2 - end_p * end_q * (2 * p - end_p) * (2 * q - end_q))

    low = low_p * (2 * p - low_p) / (p * q + root(low_p, high_q)) if p else 0.0
    return low, (p * q + root(high_p, low_q)) / (low_q * (2 * q - low_q))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Of a mean, by bootstrap over the values (percentiles); the mean itself where all are equal."""
    array = np.asarray(values, np.float64)
    if len(array) < 2 or np.ptp(array) == 0:
        return float(array.mean()), float(array.mean())
    found = bootstrap((array,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
