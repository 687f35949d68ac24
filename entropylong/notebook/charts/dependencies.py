"""Dependencies to read, and what each threshold keeps and refuses, against the controls. Spark reads, the rest is pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import Window
from pyspark.sql import functions as F
from rich import box
from rich.table import Table
from rich.text import Text

from entropylong.models.cache import load
from entropylong.notebook.charts.entropy import MOST_ROOTS, sampled
from entropylong.notebook.views import View, not_yet
from entropylong.packing.stage import PACK
from entropylong.pipeline.metrics.compute import latest_metrics
from entropylong.reporting.inspect import chunk_texts, dependency_texts
from entropylong.reporting.report.page import Step, funnel
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind, first_unmet
from entropylong.verification.rules.base import Measures, Rule

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState

ACCEPTED = "accepted"


@dataclass(frozen=True)
class Judged:
    """Readings of a sample of roots, retrieved ones and controls, and the rule that they were judged by.

    Attributes:
        readings: a row a reading; `why` is the first condition that it does not meet, or `accepted`,
            of controls that pass the rule too.
        rule: of the config.
    """

    readings: pd.DataFrame
    rule: Rule


def steps(state: PipelineState) -> list[Step]:
    """The report's funnel.

    Raises:
        NothingToDoError: nothing is packed.
    """
    figures = latest_metrics(state)
    if not figures:
        raise not_yet("nothing is packed")
    return funnel(figures)


def judged(state: PipelineState, most: int = MOST_ROOTS) -> Judged:
    """The readings of the chosen roots, of at most so many.

    Raises:
        NothingToDoError: none is verified.
    """
    roots = state.frames(PACK)["anchors"].orderBy(sampled(state), "root_id").limit(most).select("root_id")
    readings = state.readings().join(roots, "root_id", how="left_semi").toPandas()
    if readings.empty:
        raise not_yet("no candidate is verified")
    rule = Rule.of(state.config.accept)
    readings["nll_drop"] = readings["nll"] - readings["nll_with"]
    readings["why"] = reasons(readings, rule)
    return Judged(readings.sort_values(["root_id", "position", "kind", "chunk_id"], ignore_index=True), rule)


def reasons(readings: pd.DataFrame, rule: Rule) -> npt.NDArray[Any]:
    """Of each reading the first condition of a rule that it does not meet, in words; `accepted` if it meets all."""
    gain, excess, drop = (readings[name].to_numpy(np.float64) for name in ("gain", "excess_gain", "nll_drop"))
    unmet = first_unmet(rule, Measures(gain, excess, drop, readings["copy_len"].to_numpy()))
    why = {condition.name: condition.refusal for condition in RULES[rule.rule].conditions}
    return np.array([why.get(name, ACCEPTED) for name in unmet.tolist()], dtype=object)


def refusals(sample: Judged) -> pd.DataFrame:
    """Shares of the readings of each kind by what became of them: a row a reason, a column a kind."""
    counted = pd.crosstab(sample.readings["why"], sample.readings["kind"], normalize="columns")
    why = [condition.refusal for condition in RULES[sample.rule.rule].conditions]
    order = [name for name in (*why, ACCEPTED) if name in counted.index]
    return counted.reindex(index=order, columns=[kind for kind in ReadingKind if kind in counted.columns])


def by_thresholds(sample: Judged) -> dict[str, pd.DataFrame]:
    """`by_threshold` of each threshold of the rule, over the values that its condition says."""
    conditions = RULES[sample.rule.rule].conditions
    return {condition.key: by_threshold(sample, condition.key, condition.tried) for condition in conditions if condition.tried}


def by_threshold(sample: Judged, key: str, values: Sequence[float]) -> pd.DataFrame:
    """What other values of a threshold would let through, the others as configured.

    Args:
        sample: readings and rule.
        key: a threshold of `accept`, such as epsilon.
        values: to try.

    Returns:
        A row a value: pass rate of each kind, `dependencies`, and `FDR`, the pass rate of random controls by that of candidates.
    """
    kind, rows = sample.readings["kind"].to_numpy(), []
    for value in values:
        changed: dict[str, Any] = {key: value}
        good = reasons(sample.readings, replace(sample.rule, **changed)) == ACCEPTED
        row = {name.value: float(good[kind == name].mean()) if (kind == name).any() else np.nan for name in ReadingKind}
        rows.append(
            {key: value, **row, "dependencies": int(good[kind == ReadingKind.RETRIEVED].sum()),
             "FDR": row[ReadingKind.RANDOM] / row[ReadingKind.RETRIEVED] if row[ReadingKind.RETRIEVED] > 0 else np.nan}
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(key)


def near_misses(sample: Judged, count: int = 8) -> pd.DataFrame:
    """Refused candidates with the largest gains, and why they were refused."""
    readings = sample.readings
    refused = readings[(readings["kind"] == ReadingKind.RETRIEVED) & (readings["why"] != ACCEPTED)]
    columns = ["root_id", "position", "rank", "score", "gain", "excess_gain", "nll_drop", "copy_len", "why"]
    return refused.nlargest(count, "gain")[columns].round(2).reset_index(drop=True)


def strongest(state: PipelineState, count: int = 5) -> View:
    """The dependencies with the largest gains, of different roots: the anchor in its text beside its context.

    Raises:
        NothingToDoError: none was accepted.
    """
    best = Window.partitionBy("root_id").orderBy(F.desc("gain"), "position", "chunk_id")
    accepted = state.readings().where("accepted").withColumn("place", F.row_number().over(best)).where("place = 1")
    readings = accepted.orderBy(F.desc("gain"), "root_id").limit(count).collect()
    if not readings:
        raise not_yet("no candidate is accepted")
    scored = state.frames(PACK)["scored_documents"].where(F.col("root_id").isin([reading.root_id for reading in readings]))
    ids = {row.root_id: list(row.input_ids) for row in scored.select("root_id", "input_ids").collect()}
    chunks = chunk_texts(state, [reading.chunk_id for reading in readings])
    tokenizer = load(state.context.causal_lm.tokenizer())
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, padding=(0, 1))
    table.add_column("anchor, in its root", width=46)
    table.add_column("context that was put in front", width=56)
    for reading in readings:
        place, context, measured = dependency_texts(reading, tokenizer, ids[reading.root_id], chunks[reading.chunk_id])
        about = Text().append(f"{reading.root_id}\n", style="bold").append(f"{measured}\n\n", style="dim").append(place)
        table.add_row(about, context)
    return View(table)
