"""Baselines of the same corpus and token budget: Standard, KNN, NExtLong and Quest as producers of strands. Spark.

A producer gives (strand STRING, place DOUBLE, pieces ARRAY<STRUCT<kind, root_id, chunk_id, ids>>): pieces in their order, and where
the strand stands in the order in which the budget is spent. Packing does the rest alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.core.context import Frames, StageContext
from entropylong.core.udf import Row, record_batches
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.exclusion import open_excluded
from entropylong.corpus.selection import root_doc_id
from entropylong.errors import ConfigError
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.packing.recipes import neighbours
from entropylong.packing.recipes.keywords import representative
from entropylong.packing.sequences import CONTEXT, ROOT
from entropylong.retrieval.grid import Grid, to_grid
from entropylong.retrieval.index import INDEX_FILES, open_index
from entropylong.retrieval.scoring import NO_ID
from entropylong.retrieval.sizing import BROADCAST
from entropylong.storage.array_files import read_manifest
from entropylong.storage.schemas import struct_of
from entropylong.utils.hashing import xxhash64

# Of a large corpus no more documents are tokenised than a budget asks for, whatever their language; chance wants some more.
_CHARS_A_TOKEN, _MORE_DOCUMENTS = 12, 200
# Quest: of the smallest keyword groups this share comes twice as early, so that they are not drowned by the large ones.
_OVERSAMPLED = 0.2

Producer = Callable[[StageContext, Frames, int], DataFrame]


def standard(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """Random documents, each a strand."""
    place = _place(ctx, F.col("doc_id"))
    count, chars = frames["documents"].agg(F.count(F.lit(1)), F.coalesce(F.sum("n_chars"), F.lit(0))).collect()[0]
    share = budget * _CHARS_A_TOKEN / max(1, chars) + _MORE_DOCUMENTS / max(1, count)
    drawn = frames["documents"].where(place <= F.lit(min(1.0, share)))
    strand = F.col("doc_id").alias("strand")
    return _encoded(ctx, _clean(ctx, drawn), "doc_id").select(strand, place.alias("place"), F.array(_whole()).alias("pieces"))


def quest(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """Documents of one keyword, each once: filed under a keyword of the query that is predicted for it (Quest)."""
    filed = _filed(ctx, _clean(ctx, frames["documents"]))
    room = _room(ctx)
    by_hash = Window.partitionBy("keyword").orderBy(_place(ctx, F.col("doc_id")), "doc_id")
    size = F.size("ids") + F.lit(len(_separator(ctx)))
    before = F.coalesce(F.sum(size).over(by_hash.rowsBetween(Window.unboundedPreceding, -1)), F.lit(0))
    strands = (
        _encoded(ctx, frames["documents"].join(filed, "doc_id", how="left_semi"), "doc_id")
        .join(filed, "doc_id", how="inner")
        .withColumn("part", (before / F.lit(room)).cast("int"))
        .withColumn("at", F.row_number().over(by_hash))
        .groupBy("keyword", "part")
        .agg(F.sort_array(F.collect_list(F.struct("at", _whole().alias("piece")))).alias("ordered"))
        .where(F.size("ordered") > 1)
    )
    members = filed.groupBy("keyword").agg(F.count(F.lit(1)).alias("members")).where("members > 1")
    small = members.agg(F.percentile("members", F.lit(_OVERSAMPLED))).collect()[0][0] or 0
    name = F.concat_ws("#", "keyword", "part")
    place = _place(ctx, name) * F.when(F.col("members") <= small, 0.5).otherwise(1.0)
    return strands.join(members, "keyword", how="inner").select(
        name.alias("strand"), place.alias("place"), F.col("ordered.piece").alias("pieces")
    )


def _clean(ctx: StageContext, documents: DataFrame) -> DataFrame:
    """Documents that share no text with an evaluation set, as a chunk or a root would be refused for it. Executors: 13-grams."""
    excluded = ctx.excluded
    if excluded is None:
        return documents

    def keep(rows: list[Row]) -> Iterator[Row]:
        grams = open_excluded(excluded)
        yield from (row for row in rows if grams is None or grams.shared(row["text"]) is None)

    return _mapped(documents.select("doc_id", "text"), keep, "doc_id STRING, text STRING")


def _filed(ctx: StageContext, documents: DataFrame) -> DataFrame:
    """(doc_id, keyword). Executors: RAKE, after the query model if one is named."""
    seed, model, prompt = ctx.config.seed, ctx.query_model, ctx.config.quest.prompt

    def file(rows: list[Row]) -> Iterator[Row]:
        texts = [row["text"] for row in rows]
        queries = texts if model is None else load(model).predict(texts, prompt)
        for row, query in zip(rows, queries, strict=True):
            if keyword := representative(query, row["doc_id"], seed):
                yield {"doc_id": row["doc_id"], "keyword": keyword}

    return ctx.keep(_mapped(documents.select("doc_id", "text"), file, "doc_id STRING, keyword STRING"))


def knn(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """A root's document, then the chunks nearest to it."""
    return _with_neighbours(ctx, frames, neighbours.knn, meta_chunks=False)


def nextlong(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """A root's document in meta-chunks, after each its nearest chunks as hard negatives. What fills no sequence is dropped."""
    strands = _with_neighbours(ctx, frames, neighbours.nextlong, meta_chunks=True)
    return strands.where(strand_tokens(ctx) >= F.lit(_room(ctx)))


def _with_neighbours(
    ctx: StageContext, frames: Frames, recipe: Callable[..., list[neighbours.Link]], meta_chunks: bool
) -> DataFrame:
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
                found = index.search(vectors, np.zeros(len(vectors), np.int64), own, k, retrieval.nprobe)
                return [[i for i in ids if i != NO_ID] for ids in found.ids.tolist()]

            whole = encode_plain(words, row["text"])
            pieces = [encode_plain(words, text) for text in texts] if meta_chunks else [whole]
            k = neighbours.neighbours_wanted(length, len(row["text"]), len(whole), len(pieces), rule.target_chars)
            for at, link in enumerate(recipe(to_grid(load(worker).encode(texts, prompt)), k, search)):
                name = {"strand": row["doc_id"], "at": at, "chunk_id": link.chunk_id, "ids": None}
                if link.own is not None:
                    name |= {"chunk_id": xxhash64(row["doc_id"], link.own) if meta_chunks else None}
                    name |= {"ids": pieces[link.own]}
                yield name

    planned = ctx.keep(_mapped(_root_documents(ctx, frames), plan, "strand STRING, at INT, chunk_id BIGINT, ids ARRAY<INT>"))
    contexts = _capped(ctx, _once(planned.where("ids IS NULL").drop("ids"), frames["chunks"]))
    ids = _encoded(ctx, frames["chunks"].join(contexts.select("chunk_id").distinct(), "chunk_id", how="left_semi"), "chunk_id")
    filled = contexts.join(ids, "chunk_id", how="inner").withColumn("kind", F.lit(CONTEXT))
    rows = planned.where("ids IS NOT NULL").withColumn("kind", F.lit(ROOT)).unionByName(filled)
    root_id = F.when(F.col("kind") == ROOT, F.col("strand")).alias("root_id")
    piece = F.struct("kind", root_id, "chunk_id", "ids").alias("piece")
    strands = rows.groupBy("strand").agg(F.sort_array(F.collect_list(F.struct("at", piece))).alias("ordered"))
    return strands.select("strand", _place(ctx, F.col("strand")).alias("place"), F.col("ordered.piece").alias("pieces"))


def _root_documents(ctx: StageContext, frames: Frames) -> DataFrame:
    """The documents of the roots that are packed in the other recipes too."""
    roots = frames["scored_documents"].select(root_doc_id(ctx.config).alias("doc_id")).distinct()
    documents = frames["documents"].select("doc_id", "text").join(roots, "doc_id", how="left_semi")
    return documents.repartition(ctx.cores, "doc_id")


def _once(uses: DataFrame, chunks: DataFrame) -> DataFrame:
    """The chunks of each strand without those of a text that stands in it before, under another id."""
    order = Window.partitionBy("strand", "text_hash").orderBy("at")
    named = uses.join(chunks.select("chunk_id", "text_hash"), "chunk_id", how="inner")
    return named.withColumn("use", F.row_number().over(order)).where("use = 1").drop("use", "text_hash")


def _capped(ctx: StageContext, uses: DataFrame) -> DataFrame:
    """`pack.max_chunk_uses`, the first in the order in which the budget is spent: of all roots it takes a part."""
    if ctx.config.pack.max_chunk_uses is None:
        return uses
    order = Window.partitionBy("chunk_id").orderBy(_place(ctx, F.col("strand")), "strand")
    return uses.withColumn("use", F.row_number().over(order)).where(F.col("use") <= ctx.config.pack.max_chunk_uses).drop("use")


def _encoded(ctx: StageContext, rows: DataFrame, key: str) -> DataFrame:
    """(key, ids) of whole texts, as nothing was verified under a cut. Executors: the tokenizer."""
    tokenizer = ctx.causal_lm.tokenizer()

    def encode(part: list[Row]) -> Iterator[Row]:
        for row in part:
            yield {key: row[key], "ids": encode_plain(load(tokenizer), row["text"])}

    return _mapped(rows.select(key, "text"), encode, f"{key} {rows.schema[key].dataType.simpleString()}, ids ARRAY<INT>")


def _whole() -> Column:
    no_chunk = F.lit(None).cast("bigint").alias("chunk_id")
    return F.struct(F.lit(ROOT).alias("kind"), F.col("doc_id").alias("root_id"), no_chunk, "ids")


def _mapped(frame: DataFrame, function: Callable[[list[Row]], Iterator[Row]], ddl: str) -> DataFrame:
    arrow = to_arrow_schema(struct_of(ddl))

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from record_batches(function(batch.to_pylist()), arrow)

    return frame.mapInArrow(run, ddl)


def _place(ctx: StageContext, name: Column) -> Column:
    """A number from 0 to 1 by hash."""
    return F.xxhash64(F.lit(ctx.config.seed).cast("bigint"), name) / F.lit(float(2**64)) + F.lit(0.5)


def _separator(ctx: StageContext) -> list[int]:
    return encode_plain(load(ctx.causal_lm.tokenizer()), ctx.config.separator)


def _room(ctx: StageContext) -> int:
    start, _ = pad_and_start(load(ctx.causal_lm.tokenizer()), ctx.config.model.document_start_id)
    return ctx.config.pack.length - len(start)


def strand_tokens(ctx: StageContext) -> Column:
    """Tokens of a strand, separators between its pieces included."""
    sizes = F.aggregate("pieces", F.lit(0), lambda total, piece: total + F.size(piece["ids"]))
    return sizes + F.lit(len(_separator(ctx))) * (F.size("pieces") - 1)


def within_budget(ctx: StageContext, strands: DataFrame, budget: int) -> DataFrame:
    """Strands in order of their place until the budget of tokens is spent: (strand, pieces, room), room the tokens of it to pack.

    Raises:
        ConfigError: the corpus does not give as many.
    """
    separator = len(_separator(ctx))
    strands = ctx.keep(strands)
    size = F.least(strand_tokens(ctx), F.lit(_room(ctx))) + F.lit(separator)
    order = Window.orderBy("place", "strand").rowsBetween(Window.unboundedPreceding, -1)
    before = F.coalesce(F.sum("size").over(order), F.lit(0))
    spent = strands.select("strand", "place", size.alias("size")).withColumn("before", before)
    total = spent.agg(F.sum("size")).collect()[0][0] or 0
    if total < budget:
        raise ConfigError(
            f"pack.recipe {ctx.config.pack.recipe}: gives {total:,} tokens from this corpus, the verified arm has {budget:,}; "
            "give more corpus text, or compare at a shorter pack.length"
        )
    room = F.least(F.col("size"), F.lit(budget) - F.col("before")).cast("int").alias("room")
    return strands.join(spent.where(F.col("before") < budget).select("strand", room), "strand", how="inner")


STRANDS: dict[str, Producer] = {"standard": standard, "quest": quest, "knn": knn, "nextlong": nextlong}
