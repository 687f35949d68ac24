"""What the report shows, from the tables: counts, histograms, stages, quarantine. Spark; each is one aggregation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.errors import NothingToDoError
from entropylong.maintenance.quarantine import quarantine_rows
from entropylong.packing.stage import PACK
from entropylong.pipeline.metrics.compute import latest_metrics
from entropylong.pipeline.steps import STEPS
from entropylong.planning.measured import measured
from entropylong.reporting.wording import acceptance_rule, anchors_rule, roots_rule
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState

ENTROPY_BIN, GAIN_BIN, SCORE_BIN = 0.25, 0.05, 0.05
# A gain below is drawn there: a chunk that makes an anchor that much more uncertain is as bad as any.
LEAST_GAIN = -1.0
EXAMPLES = 5
Bins = dict[int, int]


@dataclass(frozen=True)
class Rate:
    """Candidates with one rank, or of one similarity, and how many of them were accepted."""

    at: float
    total: int
    accepted: int


@dataclass(frozen=True)
class StageCost:
    """What a step cost, in the run that packed last; seconds are None where it had nothing to do."""

    stage: str
    table: str
    counted: str
    keys: float | None
    seconds: float | None
    tokens_per_second: float | None
    busy: float | None


@dataclass(frozen=True)
class Gathered:
    """Plain numbers.

    Attributes:
        facts: what the sequences are of.
        figures: of the run that packed them.
        entropy: positions of the chosen roots by bin of `ENTROPY_BIN` nats; anchors likewise.
        thresholds: tau of the roots: 10th, 50th and 90th percentile, nats.
        gains: kind of reading -> readings by bin of `GAIN_BIN`.
        ranks, scores: candidates by rank, and by similarity in bins of `SCORE_BIN`.
        distances: packed dependencies by the power of two below their distance in tokens.
        stages: in order.
        plan_keys: what a plan should reckon with, as this run has shown it.
        refused: (table, outcome, code) -> rows.
        examples: rows refused as errors.
    """

    facts: dict[str, str]
    figures: dict[str, float]
    entropy: Bins
    anchors: Bins
    thresholds: tuple[float, float, float]
    gains: dict[str, Bins]
    ranks: list[Rate]
    scores: list[Rate]
    distances: Bins
    stages: list[StageCost]
    plan_keys: dict[str, float]
    refused: list[tuple[str, str, str, int]]
    examples: list[dict[str, Any]]


def gather(state: PipelineState) -> Gathered:
    """All of it, under the current config.

    Raises:
        NothingToDoError: nothing is packed under this config.
    """
    value, figures = state.fingerprint("sequences"), packed_metrics(state, "report")
    frames, readings = state.frames(PACK), state.readings()
    gains = F.greatest(F.col("gain"), F.lit(LEAST_GAIN))
    by_kind: dict[str, Bins] = {kind: {} for kind in ReadingKind}
    for row in readings.groupBy("kind", _bin(gains, GAIN_BIN)).count().collect():
        by_kind[row.kind][row.bin] = row["count"]
    retrieved = readings.where(F.col("kind") == ReadingKind.RETRIEVED)
    distance = state.store.read_ok("sequences", value).select(F.explode("dependencies.distance").alias("d"))
    return Gathered(
        facts=_facts(state),
        figures=figures,
        entropy=_profile_bins(frames["scored_documents"], state.config.anchors.min_position),
        anchors=_bins(frames["anchors"].select(F.explode("anchors.entropy").alias("h")), F.col("h"), ENTROPY_BIN),
        thresholds=tuple(frames["anchors"].agg(F.percentile_approx("threshold", [0.1, 0.5, 0.9])).collect()[0][0]),
        gains=by_kind,
        ranks=_rates(retrieved, F.col("rank").cast("bigint"), 1.0),
        scores=_rates(retrieved, F.floor(F.col("score") / SCORE_BIN), SCORE_BIN),
        distances=_bins(distance, F.log2(F.greatest("d", F.lit(1))), 1.0),
        stages=_stages(figures),
        plan_keys=measured(state, figures) if figures.get("cells_retrieved") else {},
        refused=refused_rows(figures),
        examples=quarantine_rows(state, EXAMPLES),
    )  # fmt: skip


def packed_metrics(state: PipelineState, command: str) -> dict[str, float]:
    """The figures of the run that packed the current sequences.

    Raises:
        NothingToDoError: nothing is packed under this config.
    """
    value = state.fingerprint("sequences")
    figures = latest_metrics(state) if value and state.registry.is_complete(value) else {}
    if not figures:
        raise NothingToDoError(f"{command}: nothing is packed under this config yet; run: entropylong run, with the same arguments")
    return figures


def _bin(value: Any, width: float) -> Any:
    return F.floor(value / width).cast("int").alias("bin")


def _bins(rows: DataFrame, value: Any, width: float) -> Bins:
    return {row.bin: row["count"] for row in rows.groupBy(_bin(value, width)).count().collect()}


def _rates(readings: DataFrame, key: Any, width: float) -> list[Rate]:
    counted = readings.groupBy(key.alias("at")).agg(F.count(F.lit(1)).alias("n"), F.count_if("accepted").alias("yes"))
    return [Rate(float(row["at"] * width), row.n, row.yes) for row in counted.orderBy("at").collect()]


def _profile_bins(scored: DataFrame, first: int) -> Bins:
    """Eligible positions by entropy. Executors: numpy over the profiles."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total: Bins = {}
        for batch in batches:
            for profile in batch.column(0).to_pylist():
                entropy = np.frombuffer(profile, "<f4")[first:]
                bins = np.floor(entropy[np.isfinite(entropy)] / ENTROPY_BIN).astype(int)
                for place, n in zip(*(part.tolist() for part in np.unique(bins, return_counts=True)), strict=True):
                    total[place] = total.get(place, 0) + n
        yield pa.RecordBatch.from_pydict({"bin": pa.array(total, pa.int32()), "n": pa.array(total.values(), pa.int64())})

    rows = scored.select("entropy").mapInArrow(run, "bin INT, n BIGINT").groupBy("bin").agg(F.sum("n").alias("n"))
    return {row.bin: row.n for row in rows.collect()}


def _facts(state: PipelineState) -> dict[str, str]:
    config = state.config
    return {
        "recipe": config.pack.recipe,
        "model": config.model.name,
        "encoder": config.encoder.name,
        "sources": ", ".join(sorted(config.sources)),
        "roots": roots_rule(config),
        "anchors": anchors_rule(config),
        "accepted": "; ".join(acceptance_rule(config)),
        "candidates": f"{config.retrieval.top_k} an anchor, window of {config.query.window} tokens to {config.query.side}",
        "sequences": f"{config.pack.length:,} tokens, {config.pack.layout}, {config.pack.order}, filler {config.pack.filler}",
        "fingerprint": state.fingerprint("sequences") or "",
        "tables": config.tables,
    }


def _stages(figures: dict[str, float]) -> list[StageCost]:
    costs = []
    for step in STEPS:
        values = [figures.get(f"{name}_{step.writes}") for name in ("keys", "seconds", "tokens_per_second", "accelerator_busy")]
        costs.append(StageCost(step.name, step.writes, step.counted, *values))
    return costs


def refused_rows(figures: Mapping[str, float]) -> list[tuple[str, str, str, int]]:
    """(table, outcome, code, rows) of what is not ok, as the run's figures have it."""
    rows = []
    for step in STEPS:
        for outcome in ("skipped", "error"):
            start = f"{outcome}_{step.writes}_"
            rows += [(step.writes, outcome, name[len(start) :], int(n)) for name, n in figures.items() if name.startswith(start)]
    return sorted(rows)
