"""The page of a comparison: one HTML file that asks no network for anything. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence

from entropylong.evaluation.benchmarks import comparisons
from entropylong.reporting.comparison import sections
from entropylong.reporting.comparison.collect import Run
from entropylong.reporting.comparison.paired import LEAST_DIFFERENT
from entropylong.reporting.comparison.sections import Compared
from entropylong.templates import render
from entropylong.utils.intervals import DRAWS


def page(runs: Sequence[Run], compared: Sequence[Compared]) -> str:
    """The file's text; the same results give the same text.

    Args:
        runs: the columns.
        compared: as `sections.compared` of them.
    """
    return render(
        "comparison.html.j2",
        runs=runs,
        titles={key: benchmark.title for key, (benchmark, _) in comparisons().items()},
        comparisons={key: comparison for key, (_, comparison) in comparisons().items()},
        compared=compared,
        judged=sections.judged(runs),
        data=sections.data_rows(runs),
        data_facts=sections.conditions([run.data.facts if run.data else None for run in runs]),
        scales=sections.scales(),
        drawn=sections.draws(),
        draws=DRAWS,
        least=LEAST_DIFFERENT,
    )
