"""How a cost grows with the corpus: an exponent a stage, a plot, and what it says of a billion documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BILLION = 1e9
WHAT = ("cpu_s", "records_read")


@dataclass(frozen=True)
class Line:
    """One stage at one size: what its growth from the size before cost.

    Attributes:
        stage: its label; "idle" and "status" for a run with nothing to do and for the command.
        n: documents in the workspace at the end.
        added: documents that were added since the size before.
        commits: that it made.
        files: that the stage's table has at the end.
        small: whether it was five commits of 2,000 documents.
        cpu_s, wall_s, records_read, bytes_read, most_tasks, peak_driver, peak_worker: as in `meter.Cost`.
    """

    stage: str
    n: int
    added: int
    commits: int
    files: int
    small: bool
    cpu_s: float
    wall_s: float
    records_read: int
    bytes_read: int
    most_tasks: int
    peak_driver: int
    peak_worker: int


def exponent(lines: Sequence[Line], stage: str, what: str, least: int = 0) -> float | None:
    """The slope of log(total cost up to n) over log(n), by least squares; None where less than two sizes have a cost.

    Args:
        lines: of one rehearsal, in order.
        stage: whose.
        what: an attribute of `Line`.
        least: the smallest size to look at.
    """
    total, points = 0.0, []
    for line in (line for line in lines if line.stage == stage and not line.small):
        total += getattr(line, what)
        if line.n >= least and total > 0:
            points.append((math.log(line.n), math.log(total)))
    if len(points) < 2:
        return None
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def at_a_billion(lines: Sequence[Line], stage: str, what: str, least: int = 0) -> float | None:
    """The total at 1e9 documents, if it grows on as it did."""
    slope = exponent(lines, stage, what, least)
    mine = [line for line in lines if line.stage == stage and not line.small]
    if slope is None:
        return None
    return float(sum(getattr(line, what) for line in mine) * (BILLION / mine[-1].n) ** slope)


def stages_of(lines: Sequence[Line]) -> list[str]:
    """Stages that had something to do, in order."""
    return list(dict.fromkeys(line.stage for line in lines if line.added and not line.small))


def ratio(lines: Sequence[Line], stage: str, what: str, small: bool = False) -> float:
    """The cost of a stage at the largest size over that at the smallest, of what is the same work at each."""
    mine = [getattr(line, what) for line in lines if line.stage == stage and line.small == small]
    return float(mine[-1] / mine[0]) if mine[0] else math.inf if mine[-1] else 1.0


def table(lines: Sequence[Line], least: int = 0) -> str:
    """The exponents of each stage, and what they say, as Markdown."""
    rows = ["| stage | CPU exponent | records exponent | records read a document | CPU hours at 1e9 |", "|---|---|---|---|---|"]
    for stage in stages_of(lines):
        cpu, records = (exponent(lines, stage, what, least) for what in WHAT)
        last = [line for line in lines if line.stage == stage and not line.small][-1]
        hours = at_a_billion(lines, stage, "cpu_s", least)
        shown = ["" if value is None else f"{value:.2f}" for value in (cpu, records)]
        a_document = f"{last.records_read / last.added:.2f}" if last.added else ""
        rows.append(f"| {stage} | {shown[0]} | {shown[1]} | {a_document} | {'' if hours is None else f'{hours / 3600:,.0f}'} |")
    rows += ["", "| the same work | CPU, largest over smallest size | records read |", "|---|---|---|"]
    same = [
        ("a run with nothing to do", "idle", False),
        ("status", "status", False),
        ("five small commits of ingest", "ingest", True),
        ("five small commits of chunk", "chunk", True),
    ]
    for name, stage, small in same:
        if any(line.stage == stage and line.small == small for line in lines):
            cpu, records = (ratio(lines, stage, what, small) for what in WHAT)
            rows.append(f"| {name} | {cpu:.2f} | {records:.2f} |")
    return "\n".join(rows)


def plot(lines: Sequence[Line], file: Path) -> None:
    """CPU seconds and records read up to each size, a line a stage, both axes in powers of ten."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, what, label in zip(axes, WHAT, ("CPU seconds, in all", "records read, in all"), strict=True):
        for stage in stages_of(lines):
            mine = [line for line in lines if line.stage == stage and not line.small]
            totals = [sum(getattr(line, what) for line in mine[: place + 1]) for place in range(len(mine))]
            if all(totals):
                axis.plot([line.n for line in mine], totals, marker="o", label=stage)
        axis.set(xscale="log", yscale="log", xlabel="documents", ylabel=label)
        axis.grid(True, which="both", alpha=0.2)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
