"""Two workspaces, or two settings of one, side by side: the page of `entropylong compare`, and intervals over roots.

Acceptance is applied to raw measurements, so another `accept` needs no run of its own: both are judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import functions as F

from entropylong.core.results import RunResult
from entropylong.notebook.charts.entropy import sampled
from entropylong.notebook.views import OpenWorkspace, Page, not_yet
from entropylong.pipeline.metrics.compute import compute_metrics, facts_of, latest_metrics
from entropylong.reporting.comparison import sections
from entropylong.reporting.comparison.collect import Data, Run
from entropylong.reporting.comparison.page import page
from entropylong.utils.intervals import DRAWS, percentiles, rao_wu
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState

Floats = npt.NDArray[np.float64]
# So many fit into any driver, and draws of them take seconds.
MOST_ROOTS = 10_000
# Sums over a root whose quotient is the figure.
_RATIOS = {
    "candidates that pass": ("passed_retrieved", "retrieved"),
    "controls of the same root that pass": ("passed_same_root", "same_root"),
    "random controls that pass": ("passed_random", "random"),
    "dependencies a root": ("accepted", "roots"),
    "mean gain of a dependency": ("gain", "accepted"),
}


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Of a difference, in the words of `entropylong compare`."""
        return "differs" if self.low > 0 or self.high < 0 else "no difference shown"


def run_of(opened: OpenWorkspace, name: str) -> Run:
    """A workspace as a column of a comparison; of settings that were never packed, what their measurements say."""
    state = opened.state
    figures = latest_metrics(state) or compute_metrics(state, RunResult(run_id=""))
    if not figures.get("cells_retrieved"):
        raise not_yet(f"{name}: no candidate is verified")
    place = Path(state.config.workspace)
    return Run(name, (place,), Data(place, facts_of(state.config, state.fingerprint("sequences")), figures), {})


def comparison_page(runs: list[Run]) -> Page:
    """The page that `entropylong compare` writes, of data figures."""
    return Page(page(runs, sections.compared(runs)))


def settings_that_differ(runs: list[Run]) -> pd.DataFrame:
    """What the runs are of, where they differ."""
    rows = [
        (name, *cells) for name, cells, differs in sections.conditions([r.data.facts if r.data else None for r in runs]) if differs
    ]
    return pd.DataFrame(rows, columns=["setting", *(run.name for run in runs)]).set_index("setting")


def metrics_table(runs: list[Run]) -> pd.DataFrame:
    """The figures of the page."""
    rows = [(label, *cells) for label, cells in sections.data_rows(runs)]
    return pd.DataFrame(rows, columns=["figure", *(run.name for run in runs)]).set_index("figure").fillna("")


def by_root(state: PipelineState) -> pd.DataFrame:
    """A row a root: its cells by kind, those that pass the configured rule, and the gain of what is accepted.

    Of more than `MOST_ROOTS` so many by hash, the same in every run.

    Raises:
        NothingToDoError: none is verified.
    """
    passes = F.col(RULES[state.config.accept.rule].column)
    counts = [F.count_if(F.col("kind") == kind).alias(kind) for kind in ReadingKind]
    good = [F.count_if((F.col("kind") == kind) & passes).alias(f"passed_{kind}") for kind in ReadingKind]
    gain = F.sum(F.when(F.col("accepted"), F.col("gain")).otherwise(0.0)).alias("gain")
    sums = state.readings().groupBy("root_id").agg(*counts, *good, F.count_if("accepted").alias("accepted"), gain)
    table = sums.orderBy(sampled(state), "root_id").limit(MOST_ROOTS).toPandas()
    if table.empty:
        raise not_yet("no candidate is verified")
    return table.assign(roots=1).set_index("root_id").sort_index()


def intervals(roots: pd.DataFrame) -> dict[str, Interval]:
    """Each figure of a run; drawn are roots, as what is measured within one root belongs together."""
    whole, draws = roots.sum(), _sums(roots)
    return {name: _interval(_ratio(whole, *columns), _ratio(draws, *columns))
            for name, columns in _RATIOS.items() if whole[columns[1]]}  # fmt: skip


def differences(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Interval]:
    """Each figure of the second less that of the first, over the roots that both have; the same roots are drawn for both."""
    common = first.index.intersection(second.index)
    a, b = first.loc[common], second.loc[common]
    changes = {}
    for name, columns in _RATIOS.items():
        if a[columns[1]].sum() and b[columns[1]].sum():
            value = _ratio(b.sum(), *columns) - _ratio(a.sum(), *columns)
            changes[name] = _interval(value, _ratio(_sums(b), *columns) - _ratio(_sums(a), *columns))
    return changes


def intervals_table(runs: list[Run], first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Both runs and their difference in words, a row a figure."""
    both, change = (intervals(first), intervals(second)), differences(first, second)

    def cell(figures: dict[str, Interval], name: str, sign: str = "") -> str:
        if name not in figures:
            return "n/a"
        one, form = figures[name], f"{{:{sign}.{1 if name.endswith('pass') else 2}{'%' if name.endswith('pass') else 'f'}}}"
        values = (form.format(value) for value in (one.value, one.low, one.high))
        return "{} [{}, {}]".format(*values)

    rows = [
        (name, cell(both[0], name), cell(both[1], name), cell(change, name, "+"), change[name].verdict if name in change else "")
        for name in _RATIOS
    ]
    return pd.DataFrame(rows, columns=["figure", *(run.name for run in runs), "difference", ""]).set_index("figure")


def _sums(roots: pd.DataFrame) -> pd.DataFrame:
    """Column sums of `DRAWS` draws of n - 1 of n roots (as `comparison.paired` draws questions); always the same draws for n."""
    values, rng, n = roots.to_numpy(np.float64), np.random.default_rng(0), len(roots)
    counts = (np.bincount(rao_wu(n, 1, rng)[0], minlength=n) for _ in range(DRAWS if n > 1 else 0))
    return pd.DataFrame([count @ values for count in counts], columns=roots.columns)


def _ratio(sums: Any, above: str, below: str) -> Any:
    """NaN where nothing is below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[above], np.float64) / np.asarray(sums[below], np.float64)


def _interval(value: Any, draws: Floats) -> Interval:
    return Interval(float(value), *percentiles(draws))
