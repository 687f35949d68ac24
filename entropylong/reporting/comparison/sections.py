"""What stands on the page of a comparison, as plain rows: data figures, scores by benchmark, differences. Pure Python.

A cell is None where a run has nothing. Columns are runs, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from entropylong.evaluation.longbench import PUBLISHED as LONGBENCH_PUBLISHED
from entropylong.evaluation.ruler.score import PUBLISHED as RULER_PUBLISHED
from entropylong.evaluation.ruler.tasks import TASKS
from entropylong.pipeline.metrics.names import SHOWN, is_shown
from entropylong.reporting.comparison.collect import BENCHMARKS, Run
from entropylong.reporting.comparison.paired import Difference, differences
from entropylong.utils.hashing import digest

Row = tuple[str, list[Any]]
# Beside what a run shows on the terminal: what the data cost.
_COST = (
    ("tokens of sequences", "sequence_tokens", "{:,.0f}"),
    ("seconds, all stages that ran", "seconds", "{:,.0f}"),
    ("  score", "seconds_scored_documents", "{:,.0f}"),
    ("  search", "seconds_candidates", "{:,.0f}"),
    ("  verify", "seconds_gains", "{:,.0f}"),
    ("tokens forwarded to score", "forwarded_tokens_scored_documents", "{:,.0f}"),
)
_LONGPPL = (
    ("LongPPL (lower is better)", "longppl.long_ppl", "{:.3f}"),
    ("perplexity", "longppl.ppl", "{:.3f}"),
    ("key tokens", "longppl.key_count", "{:,.0f}"),
    ("all tokens", "longppl.token_count", "{:,.0f}"),
)


@dataclass(frozen=True)
class Ruler:
    """RULER's scores.

    Attributes:
        lengths: that some run was asked.
        tasks: of each, a row a run: its place among the runs, and a cell a length, as `score.TaskScore` with low and high.
        means: of each run, by length: mean, tasks behind it.
        published: rows of published averages at these lengths.
        is_uneven: whether means at one length are of different tasks.
    """

    lengths: list[int]
    tasks: list[tuple[str, list[tuple[int, list[Mapping[str, Any] | None]]]]]
    means: list[tuple[int, list[tuple[float, int] | None]]]
    published: list[tuple[str, list[float | None]]]
    is_uneven: bool


@dataclass(frozen=True)
class Compared:
    """A run against the reference on a benchmark both have; no rows: not the same questions."""

    reference: int
    other: int
    benchmark: str
    rows: list[Difference]


def data_rows(runs: Sequence[Run]) -> list[Row]:
    """Label and cells, as text, of the figures that some run has; runs without data figures have empty cells."""
    every: list[Mapping[str, float]] = []
    for run in runs:
        figures = dict(run.data.figures) if run.data else {}
        seconds = [value for name, value in figures.items() if name.startswith("seconds_")]
        every.append(figures | ({"seconds": sum(seconds)} if seconds else {}))
    lines = [(label, name, form) for label, name, form in (*SHOWN, *_COST) if name is not None]
    shown = [line for line in lines if any(line[1] in figures for figures in every) and any(is_shown(line[1], f) for f in every)]
    return [(label, [form.format(f[name]) if name in f else None for f in every]) for label, name, form in shown]


def ruler(runs: Sequence[Run]) -> Ruler | None:
    """RULER by task and length; None if no run has it."""
    known = {
        (place, score["task"], int(score["length"])): {**score, "low": score["interval"][0], "high": score["interval"][1]}
        for place, run in enumerate(runs)
        if (evaluation := run.evaluations.get("ruler"))
        for score in evaluation.scores
    }
    if not known:
        return None
    lengths = sorted({length for _, _, length in known})
    places = sorted({place for place, _, _ in known})
    names = [task for task in TASKS if any(task == own for _, own, _ in known)]
    tasks: list[tuple[str, list[tuple[int, list[Mapping[str, Any] | None]]]]] = [
        (task, [(place, [known.get((place, task, length)) for length in lengths]) for place in places]) for task in names
    ]
    behind = {(place, length): [task for task in names if (place, task, length) in known] for place in places for length in lengths}
    means: list[tuple[int, list[tuple[float, int] | None]]] = []
    for place in places:
        cells = [[known[place, task, length]["score"] for task in behind[place, length]] for length in lengths]
        means.append((place, [(mean(scores), len(scores)) if scores else None for scores in cells]))
    published = [(name, [row.get(length) for length in lengths]) for name, row in RULER_PUBLISHED.items()]
    is_uneven = any(len({tuple(behind[place, n]) for place in places if behind[place, n]}) > 1 for n in lengths)
    return Ruler(lengths, tasks, means, [row for row in published if any(row[1])], is_uneven)


def longbench_rows(runs: Sequence[Run]) -> list[tuple[str, list[Mapping[str, Any] | None], float]]:
    """Split, a cell a run as `longbench.report` gives it, published."""
    by_run = [{row["split"]: row for row in e.scores} if (e := run.evaluations.get("longbench_v2")) else {} for run in runs]
    splits = [split for split in LONGBENCH_PUBLISHED if any(split in rows for rows in by_run)]
    return [(split, [rows.get(split) for rows in by_run], LONGBENCH_PUBLISHED[split]) for split in splits]


def longppl_rows(runs: Sequence[Run]) -> list[Row]:
    """Label and cells, as text; no row if no run has it."""
    found = [run.evaluations["longppl"].figures if "longppl" in run.evaluations else {} for run in runs]
    lines = [line for line in _LONGPPL if any(line[1] in figures for figures in found)]
    return [(label, [form.format(f[name]) if name in f else None for f in found]) for label, name, form in lines]


def conditions(all_facts: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, list[str | None], bool]]:
    """What results depend on: name, a cell a run, and whether runs differ in it."""
    names = dict.fromkeys(name for facts in all_facts if facts for name in facts if name not in ("benchmark", "label"))
    rows = []
    for name in names:
        cells = [_said(name, facts[name]) if facts and name in facts else None for facts in all_facts]
        rows.append((name.replace("_", " "), cells, len({cell for cell in cells if cell is not None}) > 1))
    return rows


def compared(runs: Sequence[Run]) -> list[Compared]:
    """Each run against the first, by benchmark."""
    first = runs[0].evaluations
    return [
        Compared(0, place, benchmark, differences(benchmark, first[benchmark].questions, run.evaluations[benchmark].questions))
        for place, run in enumerate(runs[1:], start=1)
        for benchmark in BENCHMARKS
        if benchmark in first and benchmark in run.evaluations
    ]


def _said(name: str, value: Any) -> str:
    if name == "prompts":
        return value if isinstance(value, str) else digest(value)  # of each task and length, which nobody reads
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
