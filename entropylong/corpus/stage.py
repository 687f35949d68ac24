"""Spark stages `ingest` and `chunk`: input files -> documents -> chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.config import Config
from entropylong.core.context import Frames, StageContext
from entropylong.core.stage import FileStage, StreamStage
from entropylong.core.udf import Rows, map_rows, record_batches
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.exclusion import EXCLUDE, open_excluded
from entropylong.corpus.selection import is_canary
from entropylong.corpus.sources.base import RECORD_COLUMNS, Unit
from entropylong.corpus.sources.canaries import PREFIX
from entropylong.corpus.sources.registry import planted_sources, unit_source
from entropylong.storage.codes import CONTAMINATED
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import CHUNKS, ERROR, OK, SKIPPED, struct_of
from entropylong.utils.hashing import xxhash64
from entropylong.utils.isolation import refused

_UNIT = "source STRING, kind STRING, path STRING, name STRING, n_bytes BIGINT, start BIGINT, end BIGINT"


def read_units(spark: SparkSession, config: Config, units: Sequence[Unit]) -> DataFrame:
    """Records of the units. Driver: plans one task a unit. Executors: read bytes, decode, parse."""
    sources = dict(config.sources)
    max_chars = config.ingest.max_chars
    schema = to_arrow_schema(struct_of(RECORD_COLUMNS))

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def records() -> Iterator[dict[str, Any]]:
            for unit in units_of(batches):
                source = sources[unit.source]
                columns, root = source.columns, source.path or ""
                records = unit_source(unit.kind).records(unit, root, columns.text, columns.doc_id, max_chars)
                yield from (record.row() for record in records)

        yield from record_batches(records(), schema)

    return unit_frame(spark, units).mapInArrow(read, RECORD_COLUMNS)


def unit_frame(spark: SparkSession, units: Sequence[Unit]) -> DataFrame:
    """Units as rows, each a task of its own."""
    return local_frame(spark, [vars(u) for u in units], struct_of(_UNIT)).repartition(len(units), "name")


def units_of(batches: Iterable[pa.RecordBatch]) -> Iterator[Unit]:
    """What `unit_frame` gave, on the executor."""
    return (Unit(**row) for batch in batches for row in batch.to_pylist())


def resolve_duplicates(records: DataFrame, existing: DataFrame, config: Config) -> DataFrame:
    """One ok row a doc_id and a text; the others skipped or errors, so that no order of arrival within a batch matters.

    Args:
        records: of one batch.
        existing: ok documents already committed; they win against the batch.
        config: of two records with one text that of a source which may give roots stays, or a root would be lost; where canaries
            are planted nothing else may bear their ids, as it would never be packed.
    """
    if planted := planted_sources(config):
        has_reserved_id = (F.col("outcome") == OK) & ~F.col("source").isin(planted) & is_canary(F.col("doc_id"))
        records = _refuse(
            records, has_reserved_id, ERROR, "RESERVED_ID", f"ids that begin with {PREFIX} are those of planted documents"
        )
    root_sources = config.sources_with_role("root")
    ok = F.col("outcome") == OK
    by_id = Window.partitionBy("doc_id", ok)
    by_text = Window.partitionBy("text_hash", F.col("outcome") == OK)
    known_ids = existing.select("doc_id", F.col("text_hash").alias("known_hash"))
    known_texts = existing.select("text_hash", F.col("doc_id").alias("known_id")).dropDuplicates(["text_hash"])
    checked = (
        records.join(known_ids, "doc_id", how="left")
        .withColumn("winner", F.coalesce("known_hash", F.min("text_hash").over(by_id)))
        .transform(lambda d: _refuse(d, ok & (F.col("text_hash") != F.col("winner")), ERROR, "CONFLICTING_ID",
                                     "another text stands under this doc_id already"))
        .join(known_texts, "text_hash", how="left")
    )  # fmt: skip
    place = F.struct((~F.col("source").isin(root_sources)).alias("corpus_only"), "doc_id", "source", "origin")
    first = F.min(place).over(by_text)
    is_copy = F.col("known_id").isNotNull() | (place != first)
    reason = F.concat(F.lit("same text as "), F.coalesce("known_id", first["doc_id"]))
    return _refuse(checked, (F.col("outcome") == OK) & is_copy, SKIPPED, "DUPLICATE_TEXT", reason).select(*records.columns)


def _refuse(frame: DataFrame, condition: Column, outcome: str, code: str, detail: str | Column) -> DataFrame:
    reason = F.lit(detail) if isinstance(detail, str) else detail
    return frame.withColumns(
        {
            "outcome": F.when(condition, outcome).otherwise(F.col("outcome")),
            "code": F.when(condition, code).otherwise(F.col("code")),
            "detail": F.when(condition, F.concat_ws(": ", "origin", reason).substr(1, 512)).otherwise(F.col("detail")),
        }
    )


def chunk(ctx: StageContext, frames: Frames) -> DataFrame:
    """Documents -> chunks; those that share text with an evaluation set are errors. Executors: pure string work."""
    rule, excluded = ctx.config.chunks, ctx.excluded

    def split(rows: Rows) -> Iterator[dict[str, Any]]:
        grams = open_excluded(excluded)
        for row in rows:
            texts = chunk_text(row["text"], unit=rule.unit, target_chars=rule.target_chars, max_chars=rule.max_chars)
            for ordinal, text in enumerate(texts):
                keys = {"chunk_id": xxhash64(row["doc_id"], ordinal), "doc_id": row["doc_id"], "ordinal": ordinal}
                if grams is not None and (shared := grams.shared(text)):
                    yield keys | refused(CONTAMINATED, str(shared))
                else:
                    yield keys | {"text": text, "text_hash": xxhash64(text), "outcome": OK}

    return map_rows(frames["documents"].select("doc_id", "text"), CHUNKS, split)


class Ingest(FileStage):
    """Input files -> documents."""

    name = "ingest"
    version = 1
    reads = ()
    writes = "documents"
    key = ("origin",)
    config = ("sources.*.kind", "sources.*.columns", "sources.*.role", "ingest.max_chars")
    counted = "files"
    purpose = "read the sources; refuse damaged text, conflicting ids and exact duplicates"


class Chunk(StreamStage):
    """Documents -> chunks."""

    name = "chunk"
    version = 1
    reads = ("documents",)
    writes = "chunks"
    key = ("doc_id",)
    config = ("chunks", "sources.*.role", EXCLUDE)
    counted = "documents"
    when_empty = "no document with role corpus; give a source the role corpus or both"
    purpose = "cut corpus documents into retrieval units"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the documents of sources that are searched."""
        return frames["documents"].where(F.col("source").isin(ctx.config.sources_with_role("corpus")))

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Cut texts."""
        return chunk(ctx, frames)


INGEST, CHUNK = Ingest(), Chunk()
