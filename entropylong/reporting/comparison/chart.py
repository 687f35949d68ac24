"""Geometry of the pictures on the page; the template draws them as SVG. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from entropylong.evaluation.benchmarks.section import short

WIDTH, HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 56, 12, 30
# Pixels between two names, one below the other.
_LINE = 14

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines over lengths.

    Attributes:
        ticks: (y, label) of the grid.
        labels: (x, label) of the lengths.
        lines: points of each line, as they were given.
        names: (x, y, name) behind the last point of lines that have one.
    """

    ticks: list[tuple[float, str]]
    labels: list[tuple[float, str]]
    lines: list[Points]
    names: list[tuple[float, float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - 16


def lines_over(lengths: Sequence[int], rows: Sequence[Sequence[float | None]], names: Sequence[str]) -> Chart:
    """A line a row, of per cents, the last ones with names. Lengths stand at equal steps; the scale begins near the least value."""
    values = [value for row in rows for value in row if value is not None]
    lowest = min(90.0, 10 * math.floor(min(values) / 10))
    step = 20 if lowest < 50 else 10
    lowest -= lowest % step

    def x(place: int) -> float:
        inner = WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * ((place + 0.5) / len(lengths))

    def y(value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (100 - value) / (100 - lowest)

    ticks = [(y(value), f"{value}") for value in range(int(lowest), 101, step)]
    labels = [(x(place), short(length)) for place, length in enumerate(lengths)]
    lines = [[(x(place), y(value)) for place, value in enumerate(row) if value is not None] for row in rows]
    ends = sorted(
        ((points[-1], name) for points, name in zip(lines[len(lines) - len(names) :], names, strict=True)), key=lambda e: e[0][1]
    )
    named: list[tuple[float, float, str]] = []
    for (right, middle), name in ends:
        lowest_free = named[-1][1] + _LINE if named and named[-1][0] == right + 8 else 0.0
        named.append((right + 8, max(middle + 4, lowest_free), name))
    return Chart(ticks, labels, lines, named)
