"""Spark stage `pairs`: candidates and controls -> unique pairs, and what of them is still to be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.context import Frames, StageContext
from entropylong.core.stage import UnitStage
from entropylong.core.udf import Rows, map_rows
from entropylong.corpus.selection import is_chosen
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain
from entropylong.retrieval.index import open_index
from entropylong.retrieval.queries import own_hashes, with_text
from entropylong.retrieval.stage import NO_ANCHOR
from entropylong.storage.schemas import OK, PAIRS
from entropylong.utils.isolation import refused
from entropylong.verification.planning import Anchor, plan_root


def pairs(ctx: StageContext, frames: Frames) -> DataFrame:
    """Candidates and random controls -> unique (root, chunk) pairs, with what of them is still to be read.

    Executors: planning (pure, with the index's ids), then the tokenizer. What `gains` holds already is subtracted here.
    """
    roots = frames["scored_documents"].select("root_id", F.col("input_ids").alias("all_ids"))
    texts = frames["chunks"].select("chunk_id", "text", "text_hash")
    read_positions = frames["gains"].select("pair_id", F.explode("readings.position").alias("position"))
    read_positions = read_positions.groupBy("pair_id").agg(F.collect_set("position").alias("known"))
    unread = F.array_except("positions", F.coalesce("known", F.array().cast("array<int>")))
    keyed = (
        _plan(ctx, frames)
        .select("root_id", "chunk_id", "kind", "anchors", "outcome", "code", "detail")
        .withColumn("positions", F.col("anchors.position"))
        .join(roots, "root_id", how="inner")
        .join(texts, "chunk_id", how="left")
        .withColumn("pair_id", F.xxhash64(F.lit(ctx.fingerprints["gains"]), "all_ids", "text_hash"))
        .join(read_positions, "pair_id", how="left")
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


def _plan(ctx: StageContext, frames: Frames) -> DataFrame:
    handle, scope, controls = ctx.index, ctx.config.verify.scope, ctx.config.controls.per_root
    seed, rule = ctx.config.seed, ctx.config.chunks

    def plan(rows: Rows) -> Iterator[dict[str, Any]]:
        index = open_index(handle)  # type: ignore[arg-type]
        for row in rows:
            hits = {hit["position"]: [(h["chunk_id"], h["score"]) for h in hit["hits"]] for hit in row["hits"]}
            if not hits:
                yield {"root_id": row["root_id"]} | refused("NO_CANDIDATE", "no anchor of the root has a candidate", "skipped")
                continue
            candidates = {chunk for chunks in hits.values() for chunk, _ in chunks}
            random = index.random_chunks(controls, (seed, row["root_id"]), set(own_hashes(row["text"], rule)), candidates)
            for pair in plan_root([Anchor(**anchor) for anchor in row["anchors"]], hits, random, scope):
                anchors = [vars(anchor) for anchor in pair.anchors]
                yield {"root_id": row["root_id"], "outcome": OK} | vars(pair) | {"anchors": anchors}

    roots = frames["anchors"].select("root_id", "anchors")
    current = roots.select("root_id", F.explode("anchors.position").alias("position"))
    by_root = (
        current.join(frames["candidates"].select("root_id", "position", "hits"), ["root_id", "position"], how="inner")
        .groupBy("root_id")
        .agg(F.collect_list(F.struct("position", "hits")).alias("hits"))
    )
    rows = with_text(ctx, roots.join(by_root, "root_id", how="left"), frames)
    nothing = F.array().cast(by_root.schema["hits"].dataType)
    return map_rows(rows.withColumn("hits", F.coalesce("hits", nothing)).repartition(ctx.parallelism, "root_id"), PAIRS, plan)


class Pairs(UnitStage):
    """Candidates and controls -> pairs to measure."""

    name = "pairs"
    version = 3
    reads = ("anchors", "candidates", "scored_documents", "chunks", "documents", "gains")
    writes = "pairs"
    key = ("root_id",)
    config = ("verify.scope", "controls", "seed")
    counted = "roots"
    needs_whole = ("query_vectors", "candidates")
    upstream = ("anchors", "candidates", "gains")
    when_empty = NO_ANCHOR
    purpose = "unique (root, chunk) pairs and random controls, and what of them is still to be read"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the anchors of chosen roots."""
        return frames["anchors"].where(is_chosen(ctx))

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Plan pairs and tokenise their chunks."""
        return pairs(ctx, frames)


PLAN_PAIRS = Pairs()
