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
from entropylong.core.stage import Resource, UnitStage
from entropylong.core.udf import Row, map_stream
from entropylong.models.cache import load
from entropylong.storage.codes import NO_IDS
from entropylong.storage.schemas import GAINS, OK, SKIPPED
from entropylong.utils.hashing import digest, share_threshold
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
# Pairs whose chunks decide whether keys and values are shared: of more, as many as a sample of their chunks has.
DECIDING_PAIRS = 1 << 16


def verify(ctx: StageContext, frames: Frames) -> DataFrame:
    """Pairs -> entropy and NLL at their anchors with the chunk in front. Executors: the causal LM, once a worker."""
    # What a unit costs is summed, then it is read.
    frames = {**frames, "pairs": ctx.cache(frames["pairs"])}
    selection = selection_of(ctx)
    if selection is not None:
        return _verify_selected(ctx, frames, selection)
    worker, separator, batch_tokens = ctx.causal_lm, ctx.config.separator, ctx.config.run.batch_tokens
    decision = _decide(ctx, frames["pairs"])
    logger.info("verify: %s", decision)

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        model = load(worker)
        separator_ids, lost = model.encode(separator), list[Row]()
        pairs = (Pair(root_ids, _ints(row["chunk_ids"]), _ints(row["positions"]), row) for root_ids, row in _with_ids(rows, lost))
        measured = measure(model, pairs, separator_ids=separator_ids, batch_tokens=batch_tokens, reuse=decision.reuse)
        for pair, reading in measured:
            yield _gains_row(pair.tag, pair.positions, reading)
        yield from lost

    placed = _by_chunk(ctx, frames) if decision.reuse else _by_root(ctx, frames)
    return map_stream(placed, GAINS, ctx.meter, run)


def _by_root(ctx: StageContext, frames: Frames) -> DataFrame:
    """Whole roots a task, and of each first a row with its ids and no pair: so its ids travel once, whatever its pairs."""
    pairs = frames["pairs"]
    roots = frames["scored_documents"].join(pairs.select("root_id").distinct(), "root_id", how="left_semi")
    rows = pairs.unionByName(roots.withColumnRenamed("input_ids", "root_ids"), allowMissingColumns=True)
    return spread(ctx, rows, ["root_id"], F.coalesce(_cost(ctx), F.lit(0))).sortWithinPartitions("root_id", "pair_id", "chunk_id")


def _by_chunk(ctx: StageContext, frames: Frames) -> DataFrame:
    """The roots of one chunk in one task, each with its ids, but no task for a chunk that half of the corpus retrieved."""
    pairs = frames["pairs"].join(frames["scored_documents"].withColumnRenamed("input_ids", "root_ids"), "root_id", how="left")
    number = F.row_number().over(Window.partitionBy("chunk_id").orderBy("pair_id", "root_id")) - 1
    sliced = pairs.withColumn("slice", F.floor(number / ROOTS_A_SLICE))
    return spread(ctx, sliced, ["chunk_id", "slice"], _cost(ctx)).sortWithinPartitions("chunk_id").drop("slice")


def _with_ids(rows: Iterator[Row], lost: list[Row]) -> Iterator[tuple[Ints, Row]]:
    """Pairs with the ids of their roots, which stand in the pair's row or in one before it; `lost` takes what has no ids."""
    root_id, root_ids = None, None
    for row in rows:
        if row["root_ids"] is not None:
            root_id, root_ids = row["root_id"], _ints(row["root_ids"])
        if row["pair_id"] is None:
            continue
        if root_ids is None or root_id != row["root_id"] or row["chunk_ids"] is None:
            missing = "chunk" if row["chunk_ids"] is None else "root"
            result = _pair_columns(row) | refused(NO_IDS, f"there are no token ids of its {missing}")
            lost.append(result | {"readings": [{"position": position} for position in row["positions"]]})
        else:
            yield root_ids, row


def _root_tokens() -> Column:
    """Tokens of a root that a pass needs."""
    return F.coalesce(F.array_max("positions") + 1, F.lit(0))


def _cost(ctx: StageContext) -> Column:
    return ctx.cost(F.coalesce(F.size("chunk_ids"), F.lit(0)) + _root_tokens())


def _decide(ctx: StageContext, pairs: DataFrame) -> Decision:
    """From the pairs of this unit, which decide whether chunks are shared by many of its roots."""
    # The id of a chunk is a hash, so the smallest are a sample, of whole chunks.
    some = pairs.where(F.col("chunk_id") <= share_threshold(min(1.0, DECIDING_PAIRS / max(1, ctx.keys))))
    by_chunk = some.groupBy("chunk_id").agg(
        F.count(F.lit(1)), F.coalesce(F.max(F.size("chunk_ids")), F.lit(0)), F.avg(_root_tokens())
    )
    return decide(ctx.shape, [(row[1], row[2], row[3]) for row in by_chunk.collect()])


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
        separator_ids, lost = model.encode(separator), list[Row]()
        by_root = groupby(_with_ids(rows, lost), key=lambda pair: str(pair[1]["root_id"]))
        works = (_root_work(root_id, list(pairs)) for root_id, pairs in by_root)
        for outcome in measure_selected(model, works, selection, separator_ids=separator_ids, batch_tokens=batch_tokens):
            yield _selected_row(outcome.work.tags[outcome.place], outcome, selection)
        yield from (row | {"selection": selection.digest} for row in lost if row["readings"])

    return map_stream(_by_root(ctx, frames), GAINS, ctx.meter, run)


def _root_work(root_id: str, pairs: Sequence[tuple[Ints, Row]]) -> RootWork:
    visits, rows = [], [row for _, row in pairs]
    for place, row in enumerate(rows):
        readings = {r["position"]: Measured(r["entropy_with"], r["nll_with"], r["copy_len"]) for r in row["known"] or []}
        anchors = [Anchor(**anchor) for anchor in row["anchors"]]
        visits.append(Visit(place, row["kind"], len(row["chunk_ids"]), anchors, row["positions"], readings))
    return RootWork(root_id, pairs[0][0], [_ints(row["chunk_ids"]) for row in rows], visits, rows)


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
    return result | {"n_context_tokens": None if row["chunk_ids"] is None else len(row["chunk_ids"])}


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


class Verify(UnitStage):
    """Pairs -> readings with the chunk in front."""

    name = "verify"
    version = 2
    reads = ("pairs", "gains", "context_ids", "scored_documents")
    writes = "gains"
    key = ("pair_id", "position")
    config = ("separator", "contexts.max_tokens", "model.document_start_id")
    counted = "readings"
    models = ("model",)
    resources = Resource.GPU
    selects = ("verify.budget_tokens", "verify.screen", "accept")
    upstream = ()
    needs_whole = ("context_ids",)
    when_empty = "no pair to measure: no anchor has a candidate; give more corpus text"
    purpose = "one forward pass a pair: entropy at every anchor with the chunk in front (paper, Stage 3)"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take pairs, with the positions of their anchors."""
        return frames["pairs"].select(
            "pair_id", "root_id", "chunk_id", "kind", "anchors", F.col("anchors.position").alias("positions")
        )

    def keys_done(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Give the positions read of each row, refused ones too; what another selection left out is not done."""
        selection = selection_of(ctx)
        mine = F.lit(False) if selection is None else F.col("selection") == selection.digest
        return rows.where((F.col("outcome") != SKIPPED) | mine).select("pair_id", F.col("readings.position").alias("read"))

    def subtract(self, ctx: StageContext, rows: DataFrame, done: DataFrame) -> DataFrame:
        """Leave of each pair the positions that no one has read, and no pair without any.

        Under a selection all pairs of a root with such a one stay: their readings say how full its budget is.
        """
        unread = rows.join(_merged(done, "read"), "pair_id", how="left").withColumn("positions", _unread()).drop("read")
        if selection_of(ctx) is None:
            return unread.where(F.size("positions") > 0)
        most = F.max(F.size("positions")).over(Window.partitionBy("root_id"))
        return unread.withColumn("most", most).where(F.col("most") > 0).drop("most")

    def key_counts(self, ctx: StageContext, driving: DataFrame, output: DataFrame | None) -> tuple[int, int]:
        """Count positions, by pairs: a row each would be hundreds a pair."""
        asked = _merged(driving.select("pair_id", "positions"), "positions")
        if output is None:
            total = asked.agg(F.sum(F.size("positions"))).collect()[0][0] or 0
            return int(total), int(total)
        both = asked.join(_merged(self.keys_done(ctx, output), "read"), "pair_id", how="left")
        row = both.agg(F.sum(F.size("positions")), F.sum(F.size(_unread()))).collect()[0]
        return int(row[0] or 0), int(row[1] or 0)

    def choice(self, ctx: StageContext) -> object:
        """Name the selection, which decides what is measured."""
        selection = selection_of(ctx)
        return selection.digest if selection is not None else None

    def inputs(self, ctx: StageContext, frames: Frames, todo: DataFrame) -> Frames:
        """Give the pairs with the ids of their chunks, and apart from them those of the roots, which are longer."""
        ids = frames["context_ids"].select("chunk_id", F.col("ids").alias("chunk_ids"))
        if selection_of(ctx) is None:
            pairs = todo.drop("anchors")
        else:
            readings = frames["gains"].groupBy("pair_id").agg(F.flatten(F.collect_list("readings")).alias("known"))
            pairs = todo.join(readings, "pair_id", how="left")
        return {
            "pairs": pairs.join(ids, "chunk_id", how="left"),
            "scored_documents": frames["scored_documents"].select("root_id", "input_ids"),
        }

    def n_keys(self) -> Column:
        """Count the positions that are to be read."""
        return F.size("positions")

    def refuse(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Refuse all positions of a pair that are to be read."""
        lost = F.transform("positions", lambda position: F.struct(position.alias("position")))
        return rows.select("pair_id", "root_id", "chunk_id", "kind", lost.alias("readings"))

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Run the causal LM over pairs."""
        return verify(ctx, frames)


def _merged(rows: DataFrame, positions: str) -> DataFrame:
    """One row a pair, with the positions of all its rows."""
    return rows.groupBy("pair_id").agg(F.array_distinct(F.flatten(F.collect_list(positions))).alias(positions))


def _unread() -> Column:
    return F.array_except("positions", F.coalesce("read", F.array().cast("array<int>")))


VERIFY = Verify()
