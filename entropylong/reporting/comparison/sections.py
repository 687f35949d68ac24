"""What stands on the page of a comparison, as plain rows: data figures, scores by benchmark with their pictures, differences.

A cell is None where a run has nothing. Columns are runs, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entropylong.evaluation.benchmarks import comparisons
from entropylong.evaluation.benchmarks.section import Section
from entropylong.pipeline.metrics.names import is_shown, metric_lines
from entropylong.reporting.comparison.chart import lines_over
from entropylong.reporting.comparison.collect import Run
from entropylong.reporting.comparison.paired import WORDING, Difference, differences
from entropylong.utils.hashing import digest

Row = tuple[str, list[Any]]
# A name, a cell a run, and whether runs differ in it.
Condition = tuple[str, list[str | None], bool]
# Beside what a run shows on the terminal: what the data cost.
_COST = (
    ("tokens of sequences", "sequence_tokens", "{:,.0f}"),
    ("seconds, all stages that ran", "seconds", "{:,.0f}"),
    ("  score", "seconds_scored_documents", "{:,.0f}"),
    ("  search", "seconds_candidates", "{:,.0f}"),
    ("  verify", "seconds_gains", "{:,.0f}"),
    ("tokens forwarded to score", "forwarded_tokens_scored_documents", "{:,.0f}"),
)


@dataclass(frozen=True)
class Judged:
    """A benchmark on the page.

    Attributes:
        section: its table.
        chart: its picture as SVG, if it has one of more than one length.
        facts: what its results depend on, as `conditions` gives it.
    """

    section: Section
    chart: str | None
    facts: list[Condition]


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
    lines = [(label, name, form) for label, name, form in (*metric_lines(), *_COST) if name is not None]
    rows = [line for line in lines if any(line[1] in figures for figures in every) and any(is_shown(line[1], f) for f in every)]
    return [(label, [form.format(f[name]) if name in f else None for f in every]) for label, name, form in rows]


def judged(runs: Sequence[Run]) -> list[Judged]:
    """The benchmarks that some run has, by their records."""
    benchmarks = []
    for key, (_, comparison) in comparisons().items():
        results = [run.evaluations.get(key) for run in runs]
        if section := comparison.table(results):
            facts = conditions([result.facts if result else None for result in results])
            benchmarks.append(Judged(section, _chart(key, section), facts))
    return benchmarks


def _chart(key: str, section: Section) -> str | None:
    lines = section.lines
    return None if lines is None or len(lines.lengths) < 2 else lines_over(key, lines)  # one length is no line


def conditions(all_facts: Sequence[Mapping[str, Any] | None]) -> list[Condition]:
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
        Compared(0, place, key, differences(comparison.pairing, first[key].questions, run.evaluations[key].questions))
        for place, run in enumerate(runs[1:], start=1)
        for key, (_, comparison) in comparisons().items()
        if key in first and key in run.evaluations
    ]


def scales() -> str:
    """In what each benchmark's differences are, and which direction is better."""
    titles: dict[str, list[str]] = {}
    for benchmark, comparison in comparisons().values():
        unit, _ = WORDING[comparison.pairing]
        scale = f"{unit}, where {'less' if comparison.lower_is_better else 'more'} is better"
        titles.setdefault(scale, []).append(benchmark.title)
    return "; ".join(f"{_listed(own)} {scale}" for scale, own in titles.items())


def draws() -> str:
    """What is drawn from, of the benchmarks where that is not simply the questions."""
    titles: dict[str, list[str]] = {}
    for benchmark, comparison in comparisons().values():
        if scope := WORDING[comparison.pairing][1]:
            titles.setdefault(scope, []).append(benchmark.title)
    return ", ".join(f"{_listed(own)} {scope}" for scope, own in titles.items())


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _said(name: str, value: Any) -> str:
    if name == "prompts":
        return value if isinstance(value, str) else digest(value)  # of each task and length, which nobody reads
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
