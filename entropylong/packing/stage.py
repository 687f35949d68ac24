"""Spark stage `pack`: judged cells -> groups -> sequences. A full, deterministic recompute over a pinned snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.packing.groups import Context as Chunk
from entropylong.packing.groups import Dependency, Group
from entropylong.packing.sequences import PackedSequence, PackRule, pack_groups
from entropylong.recipes.contexts import RECIPES
from entropylong.stages import Context, Frames, Kind, Stage
from entropylong.tables.schemas import OK, SEQUENCES
from entropylong.verification.planning import RANDOM


def pack(ctx: Context, frames: Frames) -> DataFrame:
    """Groups -> sequences, bucket by bucket. frames["cells"] are the judged cells. Executors: pure packing."""
    rule, seed = ctx.config.pack, ctx.config.seed
    tokenizer, separator, start_id = ctx.causal_lm.tokenizer(), ctx.config.separator, ctx.causal_lm.document_start_id
    arrow = to_arrow_schema(SEQUENCES.struct)

    def run(table: pa.Table) -> pa.Table:
        words = load(tokenizer)
        start_ids, pad_id = pad_and_start(words, start_id)
        packing = PackRule(
            length=rule.length,
            layout=rule.layout,
            order=rule.order,
            filler=rule.filler,
            seed=seed,
            recipe=rule.recipe,
            start_ids=start_ids,
            separator_ids=tuple(encode_plain(words, separator)),
            pad_id=pad_id,
        )
        rows = table.to_pylist()
        random = {c.chunk_id: c for row in rows for c in _chunks(row["random"])}
        packed = pack_groups((_group(row) for row in rows), packing, list(random.values()))
        return pa.Table.from_pylist([_row(s, rule.recipe) for s in packed], schema=arrow)

    bucket = F.pmod(F.xxhash64(F.lit(seed).cast("bigint"), "root_id"), F.lit(rule.buckets)).alias("bucket")
    groups = group_rows(ctx, frames).withColumn("bucket", bucket)
    return groups.groupBy("bucket").applyInArrow(run, SEQUENCES.ddl)


def group_rows(ctx: Context, frames: Frames) -> DataFrame:
    """One row a root: its ids, dependencies, context chunks, and the chunks that fillers may draw from."""
    accept, limit = ctx.config.accept, ctx.config.pack.max_chunk_uses
    links = RECIPES[ctx.config.pack.recipe](frames["cells"], accept)
    if limit is not None:
        links = cap_chunk_uses(links, limit, ctx.config.seed)
    by_root = links.groupBy("root_id").agg(
        F.collect_list(F.struct("chunk_id", "position", "gain", "excess_gain")).alias("dependencies")
    )
    chunks = frames["pairs"].groupBy("root_id").agg(F.collect_list(F.struct("chunk_id", "kind", "chunk_ids")).alias("chunks"))
    used = F.transform("dependencies", lambda d: d["chunk_id"])

    def is_used(chunk: Column) -> Column:
        return F.array_contains(used, chunk["chunk_id"])

    wants_rejected, wants_random = (ctx.config.pack.filler == name for name in ("rejected", "random"))
    return (
        by_root.join(frames["scored_documents"].select("root_id", "input_ids"), "root_id", how="inner")
        .join(chunks, "root_id", how="inner")
        .select(
            "root_id",
            "input_ids",
            "dependencies",
            F.filter("chunks", is_used).alias("contexts"),
            F.filter("chunks", lambda c: F.lit(wants_rejected) & (c["kind"] != RANDOM) & ~is_used(c)).alias("rejected"),
            F.filter("chunks", lambda c: F.lit(wants_random) & (c["kind"] == RANDOM)).alias("random"),
        )
    )


def cap_chunk_uses(links: DataFrame, limit: int, seed: int) -> DataFrame:
    """At most `limit` roots a chunk, the first in hash order; before bucketing, so that the cap is the corpus's."""
    order = Window.partitionBy("chunk_id").orderBy(F.xxhash64(F.lit(seed).cast("bigint"), "chunk_id", "root_id"), "root_id")
    kept = links.select("root_id", "chunk_id").distinct().withColumn("use", F.row_number().over(order)).where(F.col("use") <= limit)
    return links.join(kept, ["root_id", "chunk_id"], how="left_semi")


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterable[Chunk]:
    return (Chunk(row["chunk_id"], tuple(row["chunk_ids"]), 0.0, 0) for row in rows)


def _group(row: dict[str, Any]) -> Group:
    dependencies = tuple(Dependency(**d) for d in row["dependencies"])
    contexts = []
    for chunk in _chunks(row["contexts"]):
        mine = [d for d in dependencies if d.chunk_id == chunk.chunk_id]
        contexts.append(Chunk(chunk.chunk_id, chunk.ids, max(d.gain for d in mine), min(d.position for d in mine)))
    return Group(row["root_id"], tuple(row["input_ids"]), tuple(contexts), dependencies, tuple(_chunks(row["rejected"])))


def _row(sequence: PackedSequence, recipe: str) -> dict[str, Any]:
    return {
        "sequence_id": sequence.sequence_id,
        "recipe": recipe,
        "input_ids": sequence.input_ids.tolist(),
        "segments": [vars(s) for s in sequence.segments],
        "dependencies": [vars(d) | {"distance": d.distance} for d in sequence.dependencies],
        "loss_mask": sequence.loss_mask,
        "outcome": OK,
    }


PACK = Stage(
    name="pack",
    version=1,
    kind=Kind.WHOLE,
    reads=("pairs", "gains", "anchors", "candidates", "scored_documents"),
    writes="sequences",
    key=("sequence_id",),
    config=("accept", "pack", "seed", "roots.share", "roots.limit", "separator", "model.document_start_id"),
    build=pack,
    upstream=("pairs", "gains"),
    purpose="accept, order and pack into sequences of exactly pack.length tokens (paper, Stage 4)",
)
