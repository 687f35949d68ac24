"""Intervals by bootstrap: on figures that do not change, and where a draw has no value."""

from __future__ import annotations

import numpy as np
import pytest

from entropylong.experiments.links import Sums, estimate
from entropylong.experiments.training import difference
from entropylong.utils.intervals import bootstrap_interval, mean_interval, percentiles, rao_wu


def test_a_seed_gives_the_same_interval_in_each_version() -> None:
    rng = np.random.default_rng(5)
    whole = rng.integers(0, 4, 30).astype(float)
    part = np.minimum(whole, rng.integers(0, 4, 30))
    one, two = estimate(Sums(part, whole), seed=3), estimate(Sums(part, whole), Sums(part[::-1], whole[::-1]), seed=3)
    assert one is not None and (one.value, one.low, one.high) == pytest.approx((0.743589744, 0.571428571, 0.914285714))
    assert two is not None and (two.value, two.low, two.high) == pytest.approx((0, -0.275305415, 0.275333789))
    assert mean_interval(part.tolist(), 3) == pytest.approx((0.666666667, 1.3))


def test_a_draw_without_a_value_does_not_count() -> None:
    alone = Sums(np.array([1.0, 0, 0, 0, 0]), np.array([2.0, 0, 0, 0, 0]))
    result = estimate(alone)
    assert result is not None and (result.value, result.low, result.high) == (0.5, 0.5, 0.5)
    assert np.isnan(percentiles(np.full(3, np.nan))).all()


def test_a_sample_of_one_has_no_spread_of_its_own() -> None:
    single = estimate(Sums(np.array([3.0]), np.array([4.0])))
    assert single is not None and (single.value, single.low, single.high) == (0.75, 0.75, 0.75)
    gaps = np.random.default_rng(0).normal(size=(1, 40))
    result = difference(gaps, np.zeros((1, 40)), seed=1)
    assert (result.low, result.high) == pytest.approx(mean_interval(gaps[0].tolist()), abs=0.03)
    assert bootstrap_interval([gaps[0]], np.mean, draws=4000, seed=1) == pytest.approx((result.low, result.high), abs=0.03)


def test_one_less_than_all_are_drawn() -> None:
    """The variance of a mean of n - 1 of n is the one that n values say it has."""
    values = np.random.default_rng(3).normal(size=5)
    draws = values[rao_wu(5, 200_000, np.random.default_rng(0))]
    assert draws.shape == (200_000, 4) and draws.mean(axis=1).var() == pytest.approx(values.var(ddof=1) / 5, rel=0.02)
