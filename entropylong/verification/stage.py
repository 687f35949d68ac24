"""Spark stage `verify`: pairs -> entropy and NLL at their anchors with the chunk in front."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from entropylong.core.balance import spread
from entropylong.core.context import Frames, StageContext
from entropylong.core.stage import Resource, StreamStage
from entropylong.core.udf import Row, map_stream
from entropylong.models.cache import load
from entropylong.storage.schemas import GAINS, OK, SKIPPED
from entropylong.utils.hashing import digest
from entropylong.utils.isolation import refused
from entropylong.verification.measuring import Ints, Pair, PairReading, measure
from entropylong.verification.planning import Anchor
from entropylong.verification.reuse import Decision, decide
from entropylong.verification.rules.base import Rule
from entropylong.verification.screens import SCREENS
from entropylong.verification.screens.base import Screen
from entropylong.verification.selection import REASONS, Outcome, RootWork, Selection, measure_selected
from entropylong.verification.waves import Measured, Visit

logger = logging.getLogger(__name__)

# Roots of one chunk that stay in one task.
ROOTS_A_SLICE = 256
_COLUMNS = ("pair_id", "root_id", "chunk_id", "kind", "root_ids", "chunk_ids", "positions")


def verify(ctx: StageContext, frames: Frames) -> DataFrame:
    """Pairs -> entropy and NLL at their anchors with the chunk in front. Executors: the causal LM, once a worker."""
    selection = selection_of(ctx)
    if selection is not None:
        return _verify_selected(ctx, frames, selection)
    worker, separator, batch_tokens = ctx.causal_lm, ctx.config.separator, ctx.config.run.batch_tokens
    pairs = frames["pairs"].select(*_COLUMNS)
    decision = _decide(ctx, pairs)
    logger.info("verify: %s", decision)

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        model = load(worker)
        row_pairs = (Pair(_ints(row["root_ids"]), _ints(row["chunk_ids"]), _ints(row["positions"]), row) for row in rows)
        separator_ids = model.encode(separator)
        for pair, reading in measure(
            model, row_pairs, separator_ids=separator_ids, batch_tokens=batch_tokens, reuse=decision.reuse
        ):
            yield _gains_row(pair.tag, pair.positions, reading)

    if not decision.reuse:
        return map_stream(spread(ctx, pairs, ["pair_id"], _cost(ctx)), GAINS, ctx.meter, run)
    # The roots of one chunk in one task, but no task for a chunk that half of the corpus retrieved.
    number = F.row_number().over(Window.partitionBy("chunk_id").orderBy("pair_id", "root_id")) - 1
    sliced = pairs.withColumn("slice", F.floor(number / ROOTS_A_SLICE))
    placed = spread(ctx, sliced, ["chunk_id", "slice"], _cost(ctx)).sortWithinPartitions("chunk_id").drop("slice")
    return map_stream(placed, GAINS, ctx.meter, run)


def _root_tokens() -> Column:
    """Tokens of a root that a pass needs."""
    return F.coalesce(F.array_max("positions") + 1, F.lit(0))


def _cost(ctx: StageContext) -> Column:
    return ctx.cost(F.size("chunk_ids") + _root_tokens())


def _decide(ctx: StageContext, pairs: DataFrame) -> Decision:
    """From the pairs of this unit, which decide whether chunks are shared by many of its roots."""
    by_chunk = pairs.groupBy("chunk_id").agg(F.count(F.lit(1)), F.max(F.size("chunk_ids")), F.avg(_root_tokens())).collect()
    return decide(ctx.shape, [(row[1], row[2], row[3]) for row in by_chunk])


# --- under a budget or a screen: root by root -------------------------------------------------------------------------


def selection_of(ctx: StageContext) -> Selection | None:
    """What decides which pairs are measured under this config; None where all are."""
    verify, rule = ctx.config.verify, Rule.of(ctx.config.accept)
    screen = Screen.of(ctx.config) if SCREENS[verify.screen.kind].reading is not None else None
    budget = verify.budget_tokens
    if budget is None and screen is None:
        return None
    # The plan too: what filled a budget under other anchors or candidates leaves nothing out under these.
    # The fourth place held the fingerprint of a second model that screened. No model screens today, and the None keeps the digests
    # that rows of existing workspaces have.
    parts: list[Any] = [ctx.fingerprints.get("pairs"), budget, vars(screen) if screen else None, None]
    if budget is not None:
        parts.append(vars(rule))
    return Selection(budget, rule, screen, digest(parts))


def _verify_selected(ctx: StageContext, frames: Frames, selection: Selection) -> DataFrame:
    """Whole roots, so that a task knows when a root's budget is full. Executors: the causal LM, once a worker."""
    worker, separator, batch_tokens = ctx.causal_lm, ctx.config.separator, ctx.config.run.batch_tokens

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        model = load(worker)
        works = (_root_work(root_id, list(pairs)) for root_id, pairs in groupby(rows, key=lambda row: str(row["root_id"])))
        separator_ids = model.encode(separator)
        for outcome in measure_selected(model, works, selection, separator_ids=separator_ids, batch_tokens=batch_tokens):
            yield _selected_row(outcome.work.tags[outcome.place], outcome, selection)

    readings = frames["gains"].groupBy("pair_id").agg(F.flatten(F.collect_list("readings")).alias("known"))
    has_unread = frames["pairs"].where(F.size("positions") > 0).select("root_id").distinct()
    pairs = frames["pairs"].select(*_COLUMNS, "anchors").join(has_unread, "root_id", how="left_semi")
    placed = spread(ctx, pairs.join(readings, "pair_id", how="left"), ["root_id"], _cost(ctx))
    return map_stream(placed.sortWithinPartitions("root_id", "pair_id", "chunk_id"), GAINS, ctx.meter, run)


def _root_work(root_id: str, rows: Sequence[Row]) -> RootWork:
    visits = []
    for place, row in enumerate(rows):
        readings = {r["position"]: Measured(r["entropy_with"], r["nll_with"], r["copy_len"]) for r in row["known"] or []}
        anchors = [Anchor(**anchor) for anchor in row["anchors"]]
        visits.append(Visit(place, row["kind"], len(row["chunk_ids"]), anchors, row["positions"], readings))
    return RootWork(root_id, _ints(rows[0]["root_ids"]), [_ints(row["chunk_ids"]) for row in rows], visits, rows)


def _selected_row(row: Row, outcome: Outcome, selection: Selection) -> Row:
    if outcome.reading is not None:
        result = _gains_row(row, outcome.positions, outcome.reading)
    else:
        result = _pair_columns(row) | refused(outcome.code, REASONS[outcome.code], SKIPPED)
        result["readings"] = [{"position": position} for position in outcome.positions.tolist()]
    for reading in result["readings"]:
        reading["screen_gain"] = outcome.screen_gain.get(reading["position"])
    return result | {"selection": selection.digest}


# --- rows of `gains` --------------------------------------------------------------------------------------------------


def _ints(values: list[int]) -> Ints:
    return np.array(values, np.int32)


def _pair_columns(row: Row) -> Row:
    result = {name: row[name] for name in ("pair_id", "root_id", "chunk_id", "kind")}
    return result | {"n_context_tokens": len(row["chunk_ids"])}


def _gains_row(row: Row, positions: Ints, reading: PairReading) -> Row:
    result = _pair_columns(row)
    if not (np.isfinite(reading.entropy_with).all() and np.isfinite(reading.nll_with).all()):
        lost = [{"position": p} for p in positions.tolist()]
        code = "MODEL_FAILED" if reading.failure else "NON_FINITE"
        return result | {"readings": lost} | refused(code, reading.failure or "the model's logits are not finite")
    columns = (positions, reading.entropy_with, reading.nll_with, reading.copy_len)
    readings = [
        {"position": p, "entropy_with": h, "nll_with": n, "copy_len": c}
        for p, h, n, c in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return result | {"outcome": OK, "readings": readings}


class Verify(StreamStage):
    """Pairs -> readings with the chunk in front."""

    name = "verify"
    version = 2
    reads = ("pairs", "gains")
    writes = "gains"
    key = ("pair_id", "position")
    config = ("separator", "contexts.max_tokens", "model.document_start_id")
    counted = "readings"
    models = ("model",)
    resources = Resource.GPU
    selects = ("verify.budget_tokens", "verify.screen", "accept")
    upstream = ()
    only_unmeasured = True
    when_empty = "no pair to measure: no anchor has a candidate; give more corpus text"
    purpose = "one forward pass a pair: entropy at every anchor with the chunk in front (paper, Stage 3)"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take pairs with something unread; under a selection all pairs, as a root's other readings say how full its budget is."""
        pairs = frames["pairs"]
        return pairs if selection_of(ctx) is not None else pairs.where(F.size("positions") > 0)

    def keys_todo(self, rows: DataFrame) -> DataFrame:
        """Give one row per position that is to be read."""
        return rows.select("pair_id", F.explode("positions").alias("position"))

    def keys_done(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Give one row per reading, refused ones too; what another selection left out is not done."""
        selection = selection_of(ctx)
        mine = F.lit(False) if selection is None else F.col("selection") == selection.digest
        return rows.where((F.col("outcome") != SKIPPED) | mine).select("pair_id", F.explode("readings.position").alias("position"))

    def subtract(self, ctx: StageContext, rows: DataFrame, done: DataFrame, key: Sequence[str]) -> DataFrame:
        """Leave of each pair the positions that no one has read; without a selection, a pair without any is left out."""
        read_positions = done.groupBy("pair_id").agg(F.collect_set("position").alias("known"))
        left = F.array_except("positions", F.coalesce("known", F.array().cast("array<int>")))
        unread = rows.join(read_positions, "pair_id", how="left").withColumn("positions", left).drop("known")
        return unread if selection_of(ctx) is not None else unread.where(F.size("positions") > 0)

    def choice(self, ctx: StageContext) -> object:
        """Name the selection, which decides what is measured."""
        selection = selection_of(ctx)
        return selection.digest if selection is not None else None

    def refuse(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Refuse all positions of a pair that are to be read."""
        lost = F.transform("positions", lambda position: F.struct(position.alias("position")))
        return rows.select("pair_id", "root_id", "chunk_id", "kind", lost.alias("readings"))

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Run the causal LM over pairs."""
        return verify(ctx, frames)


VERIFY = Verify()
