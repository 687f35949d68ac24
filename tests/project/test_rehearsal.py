"""The rehearsal: what it says of growth is what grows, and at its smallest size no stage costs more than in a straight line."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from rehearsal.growth import Line, at_a_billion, exponent, ratio, stages_of

LINE = Line("ingest", 0, 0, 50, 9, False, 0.0, 1.0, 0, 0, 4, 0, 0)


def grown(cost: list[float], sizes: tuple[int, ...] = (100, 200, 400, 800)) -> list[Line]:
    """A stage at these sizes, whose total cost is that."""
    steps = zip(pairwise((0, *sizes)), pairwise([0.0, *cost]), strict=True)
    return [replace(LINE, n=n, added=n - fewer, cpu_s=total - before) for (fewer, n), (before, total) in steps]


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_an_exponent_is_that_of_the_total(power: float) -> None:
    lines = grown([n**power for n in (100, 200, 400, 800)])
    assert exponent(lines, "ingest", "cpu_s") == pytest.approx(power)
    assert exponent(lines, "ingest", "cpu_s", least=200) == pytest.approx(power)
    assert at_a_billion(lines, "ingest", "cpu_s") == pytest.approx(1e9**power, rel=1e-6)
    # Small commits, and runs with nothing to do, are no growth.
    others = [replace(LINE, n=800, added=8, small=True, cpu_s=1e6), replace(LINE, stage="idle", n=800, cpu_s=3.0)]
    assert exponent(lines + others, "ingest", "cpu_s") == pytest.approx(power) and stages_of(lines + others) == ["ingest"]
    assert exponent(lines[:1], "ingest", "cpu_s") is None


def test_the_same_work_is_compared_between_the_sizes() -> None:
    lines = [replace(LINE, stage="idle", cpu_s=cost) for cost in (2.0, 5.0, 3.0)]
    assert ratio(lines, "idle", "cpu_s") == 1.5 and ratio(lines, "idle", "records_read") == 1.0
    assert ratio([*lines, replace(LINE, stage="idle", records_read=7)], "idle", "records_read") == math.inf
