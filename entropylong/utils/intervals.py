"""95 % intervals of scores: shares, their ratios, and whatever a bootstrap can tell. Pure scipy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]
DRAWS = 2000


def wilson(right: int, total: int) -> Interval:
    """Of a share of right answers (Wilson)."""
    interval = binomtest(right, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


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
    """Of a mean, by bootstrap over the values; the mean itself where all are equal."""
    array = np.asarray(values, np.float64)
    if len(array) < 2 or np.ptp(array) == 0:
        return float(array.mean()), float(array.mean())
    return bootstrap_interval([array], np.mean, seed=seed)


def bootstrap_interval(
    samples: Sequence[npt.NDArray[Any]], statistic: Callable[..., Any], *, draws: int = DRAWS, paired: bool = False, seed: int = 0
) -> Interval:
    """Of a statistic, by bootstrap: as many values of each sample are drawn with replacement as it has.

    Args:
        samples: `[n]` each. A single value counts as two equal ones, which a mean or a ratio does not see and scipy asks for.
        statistic: samples `[..., n]` and the `axis` of n -> `[...]`; NaN where it has no value.
        draws: how often.
        paired: whether all samples are of one length and drawn at the same places.
        seed: of the draws.
    """
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # It warns where some draw has no value, as its own percentiles take all of them.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            [np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples], statistic, n_resamples=draws, batch=100,
            vectorized=True, paired=paired, method="percentile", rng=np.random.default_rng(seed),
        )  # fmt: skip
    return percentiles(result.bootstrap_distribution)


def rao_wu(n: int, draws: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Places of n - 1 of n, drawn with replacement, a row a draw (Rao and Wu, 1988).

    n of n would make intervals of a few values too narrow, by a factor sqrt((n - 1) / n); scipy's bootstrap draws n of n only.
    """
    return rng.integers(n, size=(draws, n - 1))


def percentiles(draws: Floats) -> Interval:
    """The middle 95 % of draws; one that is no number does not count. NaN where none is left."""
    finite = draws[np.isfinite(draws)]
    low, high = np.percentile(finite, (2.5, 97.5)) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)
