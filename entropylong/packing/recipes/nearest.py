"""Documents followed by their nearest chunks: what KNN and NExtLong share. Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from entropylong.core.context import Frames, StageContext
from entropylong.core.udf import Row
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.selection import root_doc_id
from entropylong.errors import ConfigError
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain
from entropylong.packing.recipes import neighbours
from entropylong.packing.recipes.shared import encoded, hash_place, map_rows
from entropylong.packing.sequences import SegmentKind
from entropylong.retrieval.grid import Grid, to_grid
from entropylong.retrieval.index import INDEX_FILES, open_index
from entropylong.retrieval.scoring import NO_ID
from entropylong.retrieval.sizing import BROADCAST
from entropylong.storage.array_files import read_manifest
from entropylong.utils.hashing import xxhash64


def with_neighbours(
    ctx: StageContext,
    frames: Frames,
    plan_links: Callable[[Grid, int, neighbours.Search], list[neighbours.Link]],
    meta_chunks: bool,
) -> DataFrame:
    """Document runs of the roots' documents and their nearest chunks.

    Args:
        plan_links: Says for one document which chunks follow it, or its meta-chunks.
        meta_chunks: Whether the document is in pieces.

    Raises:
        ConfigError: the index is not a broadcast one.
    """
    handle, retrieval, rule, length = ctx.index, ctx.config.retrieval, ctx.config.chunks, ctx.config.pack.length
    if handle is None or read_manifest(Path(handle.directory), INDEX_FILES)["mode"] != BROADCAST:
        raise ConfigError(f"pack.recipe {ctx.config.pack.recipe}: searches a broadcast index; set retrieval.mode=broadcast")
    worker, prompt, tokenizer = ctx.encoder, ctx.config.encoder.passage_prompt, ctx.causal_lm.tokenizer()

    def plan(rows: list[Row]) -> Iterator[Row]:
        index, words = open_index(handle), load(tokenizer)
        for row in rows:
            texts = chunk_text(row["text"], unit=rule.unit, target_chars=rule.target_chars, max_chars=rule.max_chars)
            own = [[xxhash64(text) for text in texts]]

            def search(vectors: Grid, k: int, own: list[list[int]] = own) -> list[list[int]]:
                hits = index.search(vectors, np.zeros(len(vectors), np.int64), own, k, retrieval.nprobe)
                return [[i for i in ids if i != NO_ID] for ids in hits.ids.tolist()]

            whole = encode_plain(words, row["text"])
            pieces = [encode_plain(words, text) for text in texts] if meta_chunks else [whole]
            k = neighbours.neighbours_wanted(length, len(row["text"]), len(whole), len(pieces), rule.target_chars)
            for at, link in enumerate(plan_links(to_grid(load(worker).encode(texts, prompt)), k, search)):
                name = {"document_run": row["doc_id"], "at": at, "chunk_id": link.chunk_id, "ids": None}
                if link.own is not None:
                    name |= {"chunk_id": xxhash64(row["doc_id"], link.own) if meta_chunks else None}
                    name |= {"ids": pieces[link.own]}
                yield name

    planned = ctx.cache(
        map_rows(_root_documents(ctx, frames), plan, "document_run STRING, at INT, chunk_id BIGINT, ids ARRAY<INT>")
    )
    contexts = _capped(ctx, _once(planned.where("ids IS NULL").drop("ids"), frames["chunks"]))
    ids = encoded(ctx, frames["chunks"].join(contexts.select("chunk_id").distinct(), "chunk_id", how="left_semi"), "chunk_id")
    filled = contexts.join(ids, "chunk_id", how="inner").withColumn("kind", F.lit(SegmentKind.CONTEXT))
    rows = planned.where("ids IS NOT NULL").withColumn("kind", F.lit(SegmentKind.ROOT)).unionByName(filled)
    root_id = F.when(F.col("kind") == SegmentKind.ROOT, F.col("document_run")).alias("root_id")
    piece = F.struct("kind", root_id, "chunk_id", "ids").alias("piece")
    runs = rows.groupBy("document_run").agg(F.sort_array(F.collect_list(F.struct("at", piece))).alias("ordered"))
    return runs.select(
        "document_run", hash_place(ctx, F.col("document_run")).alias("place"), F.col("ordered.piece").alias("pieces")
    )


def _root_documents(ctx: StageContext, frames: Frames) -> DataFrame:
    """The documents of the roots that are packed in the other recipes too."""
    roots = frames["scored_documents"].select(root_doc_id(ctx.config).alias("doc_id")).distinct()
    documents = frames["documents"].select("doc_id", "text").join(roots, "doc_id", how="left_semi")
    return documents.repartition(ctx.cores, "doc_id")


def _once(uses: DataFrame, chunks: DataFrame) -> DataFrame:
    """The chunks of each document run without those of a text that stands in it before, under another id."""
    order = Window.partitionBy("document_run", "text_hash").orderBy("at")
    named = uses.join(chunks.select("chunk_id", "text_hash"), "chunk_id", how="inner")
    return named.withColumn("use", F.row_number().over(order)).where("use = 1").drop("use", "text_hash")


def _capped(ctx: StageContext, uses: DataFrame) -> DataFrame:
    """`pack.max_chunk_uses`, the first in the order in which the budget is spent: of all roots it takes a part."""
    if ctx.config.pack.max_chunk_uses is None:
        return uses
    order = Window.partitionBy("chunk_id").orderBy(hash_place(ctx, F.col("document_run")), "document_run")
    return uses.withColumn("use", F.row_number().over(order)).where(F.col("use") <= ctx.config.pack.max_chunk_uses).drop("use")
