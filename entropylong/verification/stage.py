"""Spark stages `pairs` and `verify`: candidates and controls -> pairs to measure -> raw gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from entropylong.balance import spread
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.stage import is_root
from entropylong.hashing import xxhash64
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain
from entropylong.retrieval.index import open_index
from entropylong.retrieval.stage import with_text
from entropylong.stages import Context, Frames, Kind, Stage
from entropylong.tables.schemas import GAINS, OK, PAIRS
from entropylong.udf import Row, Rows, map_rows, map_stream, refused
from entropylong.verification.measuring import Ints, Pair, PairReading, measure
from entropylong.verification.planning import plan_root
from entropylong.verification.reuse import Decision, decide

# Roots of one chunk that stay in one task.
ROOTS_A_SLICE = 256


def pairs(ctx: Context, frames: Frames) -> DataFrame:
    """Candidates and random controls -> unique (root, chunk) pairs, with what of them is still to be read.

    Executors: planning (pure, with the index's ids), then the tokenizer. What `gains` holds already is subtracted here.
    """
    roots = frames["scored_documents"].select("root_id", F.col("input_ids").alias("all_ids"))
    texts = frames["chunks"].select("chunk_id", "text", "text_hash")
    known = frames["gains"].select("pair_id", F.explode("readings.position").alias("position"))
    known = known.groupBy("pair_id").agg(F.collect_set("position").alias("known"))
    unread = F.array_except("positions", F.coalesce("known", F.array().cast("array<int>")))
    keyed = (
        _plan(ctx, frames)
        .select("root_id", "chunk_id", "kind", "positions", "outcome", "code", "detail")
        .join(roots, "root_id", how="inner")
        .join(texts, "chunk_id", how="left")
        .withColumn("pair_id", F.xxhash64(F.lit(ctx.fingerprints["gains"]), "all_ids", "text_hash"))
        .join(known, "pair_id", how="left")
        .withColumn("positions", F.when(F.col("outcome") == OK, unread))
        # Whole, though a pass ends at its last anchor: a verbatim copy is measured to its end.
        .withColumnRenamed("all_ids", "root_ids")
        .drop("text_hash", "known")
    )
    tokenizer, cut = ctx.causal_lm.tokenizer(), ctx.config.contexts.max_tokens

    def tokenise(rows: Rows) -> Iterator[dict[str, Any]]:
        encoder = load(tokenizer)
        for row in rows:
            text = row.pop("text")
            if row["outcome"] == OK:
                yield row | {"chunk_ids": encode_plain(encoder, text)[:cut]}
            else:
                yield {name: row[name] for name in ("root_id", "outcome", "code", "detail")}

    return map_rows(keyed.repartition(ctx.parallelism, "root_id"), PAIRS, tokenise)


def _plan(ctx: Context, frames: Frames) -> DataFrame:
    handle, scope, controls = ctx.index, ctx.config.verify.scope, ctx.config.controls.per_root
    seed, rule = ctx.config.seed, ctx.config.chunks

    def plan(rows: Rows) -> Iterator[dict[str, Any]]:
        index = open_index(handle)  # type: ignore[arg-type]
        for row in rows:
            hits = {hit["position"]: hit["chunk_ids"] for hit in row["hits"]}
            if not hits:
                yield {"root_id": row["root_id"]} | refused("NO_CANDIDATE", "no anchor of the root has a candidate", "skipped")
                continue
            own = chunk_text(row["text"], unit=rule.unit, target_chars=rule.target_chars, max_chars=rule.max_chars)
            excluded = set(index.excluded_rows(row["doc_id"], [xxhash64(text) for text in own]).tolist())
            excluded |= index.rows_of([chunk for chunks in hits.values() for chunk in chunks])
            random = index.random_chunks(controls, (seed, row["root_id"]), excluded)
            for pair in plan_root(row["positions"], hits, random, scope):
                yield {"root_id": row["root_id"], "outcome": OK} | vars(pair)

    hits = frames["candidates"].select("root_id", "position", F.col("hits.chunk_id").alias("chunk_ids"))
    roots = frames["anchors"].select("root_id", F.col("anchors.position").alias("positions"))
    current = roots.select("root_id", F.explode("positions").alias("position"))
    by_root = (
        current.join(hits, ["root_id", "position"], how="inner")
        .groupBy("root_id")
        .agg(F.collect_list(F.struct("position", "chunk_ids")).alias("hits"))
    )
    rows = with_text(roots.join(by_root, "root_id", how="left"), frames)
    rows = rows.withColumn(
        "hits", F.coalesce("hits", F.expr("cast(array() as array<struct<position int, chunk_ids array<bigint>>>)"))
    )
    return map_rows(rows.repartition(ctx.parallelism, "root_id"), PAIRS, plan)


def verify(ctx: Context, frames: Frames) -> DataFrame:
    """Pairs -> entropy and NLL at their anchors with the chunk in front. Executors: the causal LM, once a worker."""
    worker, separator, batch_tokens = ctx.causal_lm, ctx.config.separator, ctx.config.run.batch_tokens

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        model = load(worker)
        asked = (Pair(_ints(row["root_ids"]), _ints(row["chunk_ids"]), _ints(row["positions"]), row) for row in rows)
        separator_ids = model.encode(separator)
        for pair, reading in measure(model, asked, separator_ids=separator_ids, batch_tokens=batch_tokens, reuse=decision.reuse):
            yield _gains_row(pair, reading)

    names = ("pair_id", "root_id", "chunk_id", "kind", "root_ids", "chunk_ids", "positions")
    pairs = frames["pairs"].select(*names)
    decision = _decide(ctx, pairs)
    ctx.say(f"verify: {decision}")
    cost = ctx.cost(F.size("chunk_ids") + _root_tokens())
    if not decision.reuse:
        return map_stream(spread(ctx, pairs, ["pair_id"], cost), GAINS, ctx.meter, run)
    # The roots of one chunk in one task, but no task for a chunk that half of the corpus retrieved.
    number = F.row_number().over(Window.partitionBy("chunk_id").orderBy("pair_id", "root_id")) - 1
    sliced = pairs.withColumn("slice", F.floor(number / ROOTS_A_SLICE))
    placed = spread(ctx, sliced, ["chunk_id", "slice"], cost).sortWithinPartitions("chunk_id").drop("slice")
    return map_stream(placed, GAINS, ctx.meter, run)


def _root_tokens() -> Column:
    """Tokens of a root that a pass needs."""
    return F.array_max("positions") + 1


def _decide(ctx: Context, pairs: DataFrame) -> Decision:
    """From the pairs of this unit, which decide whether chunks are shared by many of its roots."""
    by_chunk = pairs.groupBy("chunk_id").agg(F.count(F.lit(1)), F.max(F.size("chunk_ids")), F.avg(_root_tokens())).collect()
    return decide(ctx.shape, [(row[1], row[2], row[3]) for row in by_chunk])


def _ints(values: list[int]) -> Ints:
    return np.array(values, np.int32)


def _gains_row(pair: Pair, reading: PairReading) -> Row:
    result = {name: pair.tag[name] for name in ("pair_id", "root_id", "chunk_id", "kind")}
    result["n_context_tokens"] = len(pair.chunk_ids)
    if not (np.isfinite(reading.entropy_with).all() and np.isfinite(reading.nll_with).all()):
        lost = [{"position": p} for p in pair.positions.tolist()]
        return result | {"readings": lost} | refused("NON_FINITE", "the model's logits are not finite")
    columns = (pair.positions, reading.entropy_with, reading.nll_with, reading.copy_len)
    readings = [
        {"position": p, "entropy_with": h, "nll_with": n, "copy_len": c}
        for p, h, n, c in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return result | {"outcome": OK, "readings": readings}


def _chosen_anchors(ctx: Context, frames: Frames) -> DataFrame:
    return frames["anchors"].where(is_root(ctx, F.col("root_id")))


def _to_read(ctx: Context, frames: Frames) -> DataFrame:
    return frames["pairs"].where(F.size("positions") > 0)


def _subtract_readings(rows: DataFrame, done: DataFrame, key: Sequence[str]) -> DataFrame:
    """Pairs with the positions that no one has read; a pair without any is left out."""
    known = done.groupBy("pair_id").agg(F.collect_set("position").alias("known"))
    left = F.array_except("positions", F.coalesce("known", F.array().cast("array<int>")))
    return rows.join(known, "pair_id", how="left").withColumn("positions", left).drop("known").where(F.size("positions") > 0)


PLAN_PAIRS = Stage(
    name="pairs",
    version=2,
    kind=Kind.BATCH,
    reads=("anchors", "candidates", "scored_documents", "chunks", "documents", "gains"),
    writes="pairs",
    key=("root_id",),
    config=("verify.scope", "controls", "seed"),
    build=pairs,
    driving=_chosen_anchors,
    needs_whole=("query_vectors", "candidates"),
    upstream=("anchors", "candidates", "gains"),
    purpose="unique (root, chunk) pairs and random controls, and what of them is still to be read",
)
VERIFY = Stage(
    name="verify",
    version=2,
    kind=Kind.STREAM,
    reads=("pairs",),
    writes="gains",
    key=("pair_id", "position"),
    config=("separator", "contexts.max_tokens", "model.document_start_id"),
    build=verify,
    driving=_to_read,
    keys_todo=lambda rows: rows.select("pair_id", F.explode("positions").alias("position")),
    keys_done=lambda rows: rows.select("pair_id", F.explode("readings.position").alias("position")),
    subtract=_subtract_readings,
    only_unmeasured=True,
    upstream=(),
    models=("model",),
    purpose="one forward pass a pair: entropy at every anchor with the chunk in front (paper, Stage 3)",
)
