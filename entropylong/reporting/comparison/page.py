"""The page of a comparison: one HTML file that asks no network for anything. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence

from entropylong.evaluation.ruler.tasks import TASKS
from entropylong.reporting.comparison import sections
from entropylong.reporting.comparison.chart import lines_over, short
from entropylong.reporting.comparison.collect import BENCHMARKS, Run
from entropylong.reporting.comparison.paired import DRAWS, LEAST_DIFFERENT
from entropylong.reporting.comparison.sections import Compared
from entropylong.templates import render


def page(runs: Sequence[Run], compared: Sequence[Compared]) -> str:
    """The file's text; the same results give the same text.

    Args:
        runs: the columns.
        compared: as `sections.compared` of them.
    """
    ruler = sections.ruler(runs)
    chart = None
    if ruler is not None and len(ruler.lengths) > 1:  # one length is no line
        ours = [[cell and cell[0] for cell in cells] for _, cells in ruler.means]
        chart = lines_over(ruler.lengths, [*ours, *(cells for _, cells in ruler.published)], [name for name, _ in ruler.published])
    facts = {name: sections.conditions([e.facts if (e := run.evaluations.get(name)) else None for run in runs])
             for name in BENCHMARKS}  # fmt: skip
    return render(
        "comparison.html.j2",
        runs=runs,
        benchmarks=BENCHMARKS,
        compared=compared,
        ruler=ruler,
        chart=chart,
        facts=facts,
        short=short,
        data=sections.data_rows(runs),
        data_facts=sections.conditions([run.data.facts if run.data else None for run in runs]),
        longbench=sections.longbench_rows(runs),
        longppl=sections.longppl_rows(runs),
        draws=DRAWS,
        least=LEAST_DIFFERENT,
        tasks_in_all=len(TASKS),
    )
