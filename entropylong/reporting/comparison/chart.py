"""The picture of a benchmark's lines over lengths: matplotlib's SVG, a part of the page."""

from __future__ import annotations

import math
from typing import Any

from entropylong.evaluation.benchmarks.section import Lines, short
from entropylong.utils.chart_style import COLOURS, SOFT, drawn, svg

# Two names, one below the other: a share of the picture's height.
_LINE = 0.065


def lines_over(name: str, lines: Lines) -> str:
    """A line a run and a published model, of per cents. Lengths stand at equal steps; the scale begins near the least value.

    Args:
        name: unique on the page.
        lines: with some value each.
    """
    places = range(len(lines.lengths))
    rows = [row for _, row in (*lines.runs, *lines.published)]
    lowest = min(90, 10 * math.floor(min(value for row in rows for value in row if value is not None) / 10))

    def draw(axes: Any) -> None:
        styles = [{"color": COLOURS[run % len(COLOURS)], "zorder": 3} for run, _ in lines.runs]
        styles += [{"color": SOFT, "ls": (0, (2, 2.5)), "lw": 1.1, "mfc": "none"} for _ in lines.published]
        for number, (row, style) in enumerate(zip(rows, styles, strict=True)):
            own = [(place, value) for place, value in zip(places, row, strict=True) if value is not None]
            axes.plot(*zip(*own, strict=True), marker="o", ms=5, clip_on=False, gid=f"line-{number}", **style)
        # Behind the last point of each published line, none over another.
        ends = [max((p, v) for p, v in zip(places, row, strict=True) if v is not None) for _, row in lines.published]
        heights: dict[int, float] = {}
        for (place, value), (label, _) in sorted(zip(ends, lines.published, strict=True), key=lambda e: -e[0][1]):
            heights[place] = min(value, heights.get(place, math.inf) - _LINE * (100 - lowest))
            axes.annotate(label, (place, heights[place]), (8, 0), textcoords="offset points", va="center", color=SOFT)
        axes.set(xlim=(-0.5, len(places) - 0.5), ylim=(lowest, 100), ylabel="per cent")
        axes.set_xticks(places, [short(length) for length in lines.lengths])
        axes.tick_params(length=0, pad=6)
        axes.grid(axis="y")
        axes.spines[:].set_visible(False)

    return svg(name, drawn(draw, (6, 3.25)))
