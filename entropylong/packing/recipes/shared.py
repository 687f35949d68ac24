"""What producers of document runs share: texts, tokens, places in the order of the budget, and the budget itself. Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.core.context import StageContext
from entropylong.core.udf import Row, record_batches
from entropylong.corpus.exclusion import open_excluded
from entropylong.errors import ConfigError
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.packing.sequences import SegmentKind
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import struct_of

# Of the places from 0 to 1, so that sums up to each have that many tasks at most.
SLICES = 4096


def without_excluded(ctx: StageContext, documents: DataFrame) -> DataFrame:
    """Documents that share no text with an evaluation set, as a chunk or a root would be refused for it. Executors: 13-grams."""
    excluded = ctx.excluded
    if excluded is None:
        return documents

    def keep(rows: list[Row]) -> Iterator[Row]:
        grams = open_excluded(excluded)
        yield from (row for row in rows if grams is None or grams.shared(row["text"]) is None)

    return map_rows(documents.select("doc_id", "text"), keep, "doc_id STRING, text STRING")


def encoded(ctx: StageContext, rows: DataFrame, key: str) -> DataFrame:
    """(key, ids) of whole texts, as nothing was verified under a cut. Executors: the tokenizer."""
    tokenizer = ctx.causal_lm.tokenizer()

    def encode(part: list[Row]) -> Iterator[Row]:
        for row in part:
            yield {key: row[key], "ids": encode_plain(load(tokenizer), row["text"])}

    return map_rows(rows.select(key, "text"), encode, f"{key} {rows.schema[key].dataType.simpleString()}, ids ARRAY<INT>")


def whole_document() -> Column:
    """A document as the one piece of a document run."""
    no_chunk = F.lit(None).cast("bigint").alias("chunk_id")
    return F.struct(F.lit(SegmentKind.ROOT).alias("kind"), F.col("doc_id").alias("root_id"), no_chunk, "ids")


def map_rows(frame: DataFrame, function: Callable[[list[Row]], Iterator[Row]], ddl: str) -> DataFrame:
    """Rows that a function gives for the rows of each batch."""
    arrow = to_arrow_schema(struct_of(ddl))

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from record_batches(function(batch.to_pylist()), arrow)

    return frame.mapInArrow(run, ddl)


def hash_place(ctx: StageContext, name: Column) -> Column:
    """A number from 0 to 1 by hash."""
    return F.xxhash64(F.lit(ctx.config.seed).cast("bigint"), name) / F.lit(float(2**64)) + F.lit(0.5)


def separator_ids(ctx: StageContext) -> list[int]:
    """What stands between two pieces."""
    return encode_plain(load(ctx.causal_lm.tokenizer()), ctx.config.separator)


def sequence_room(ctx: StageContext) -> int:
    """Tokens of a sequence behind its start."""
    start, _ = pad_and_start(load(ctx.causal_lm.tokenizer()), ctx.config.model.document_start_id)
    return ctx.config.pack.length - len(start)


def document_run_tokens(ctx: StageContext) -> Column:
    """Tokens of a document run, separators between its pieces included."""
    sizes = F.aggregate("pieces", F.lit(0), lambda total, piece: total + F.size(piece["ids"]))
    return sizes + F.lit(len(separator_ids(ctx))) * (F.size("pieces") - 1)


def within_budget(ctx: StageContext, runs: DataFrame, budget: int) -> DataFrame:
    """Take document runs in order of their place until the budget of tokens is spent.

    Returns:
        (document_run, pieces, room), room the tokens of it to pack.

    Raises:
        ConfigError: the corpus does not give as many.
    """
    separator = len(separator_ids(ctx))
    runs = ctx.cache(runs)
    size = F.least(document_run_tokens(ctx), F.lit(sequence_room(ctx))) + F.lit(separator)
    # Sums up to a place, slice by slice of the places: one window over all would be one task.
    sliced = runs.select(
        "document_run", "place", size.alias("size"), F.least(F.floor(F.col("place") * SLICES), F.lit(SLICES - 1)).alias("slice")
    )
    sums = {row[0]: int(row[1]) for row in sliced.groupBy("slice").agg(F.sum("size")).collect()}
    starts = dict(zip(sorted(sums), accumulate([0, *(sums[one] for one in sorted(sums))]), strict=False))
    rows = [{"slice": one, "start": start} for one, start in starts.items()]
    of_slice = F.broadcast(local_frame(ctx.spark, rows, struct_of("slice BIGINT, start BIGINT")))
    order = Window.partitionBy("slice").orderBy("place", "document_run").rowsBetween(Window.unboundedPreceding, -1)
    before = F.col("start") + F.coalesce(F.sum("size").over(order), F.lit(0))
    spent = sliced.join(of_slice, "slice", how="inner").withColumn("before", before)
    total = sum(sums.values())
    if total < budget:
        raise ConfigError(
            f"pack.recipe {ctx.config.pack.recipe}: gives {total:,} tokens from this corpus, the verified arm has {budget:,}; "
            "give more corpus text, or compare at a shorter pack.length"
        )
    room = F.least(F.col("size"), F.lit(budget) - F.col("before")).cast("int").alias("room")
    return runs.join(spent.where(F.col("before") < budget).select("document_run", room), "document_run", how="inner")
