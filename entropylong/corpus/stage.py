"""Spark stages `ingest` and `chunk`: input files -> documents -> chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.config import Config
from entropylong.core.context import Frames, StageContext
from entropylong.core.stage import FileStage, StreamStage
from entropylong.core.udf import Rows, map_rows, record_batches
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.duplicates import KEYS
from entropylong.corpus.exclusion import EXCLUDE, open_excluded
from entropylong.corpus.sources.base import RECORD_COLUMNS, Record, Unit
from entropylong.corpus.sources.registry import unit_source
from entropylong.storage.codes import CONTAMINATED
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import CHUNKS, OK, struct_of
from entropylong.utils.hashing import xxhash64
from entropylong.utils.isolation import refused

# Columns of `read_keys`.
KEY_COLUMNS = "doc_id STRING, text_hash BIGINT, source STRING, origin STRING, batch INT"
# Tasks that read keys, however many units there are.
KEY_TASKS_A_CORE = 64

_UNIT = "source STRING, kind STRING, path STRING, name STRING, n_bytes BIGINT, start BIGINT, end BIGINT"


def read_units(spark: SparkSession, config: Config, units: Sequence[Unit]) -> DataFrame:
    """Records of the units. Driver: plans one task a unit. Executors: read bytes, decode, parse."""
    read, schema = _reader(config), to_arrow_schema(struct_of(RECORD_COLUMNS))

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from record_batches((record.row() for unit in units_of(batches) for record in read(unit)), schema)

    return unit_frame(spark, units).mapInArrow(run, RECORD_COLUMNS)


def read_keys(spark: SparkSession, config: Config, batches: Sequence[Sequence[Unit]], cores: int) -> DataFrame:
    """Of the same records, as far as they are ok, what tells copies; and in `batch` the place of their units in `batches`."""
    read, schema = _reader(config), to_arrow_schema(struct_of(KEY_COLUMNS))

    def run(tables: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def rows() -> Iterator[dict[str, Any]]:
            for row in (row for table in tables for row in table.to_pylist()):
                batch = row.pop("batch")
                for record in (record for record in read(Unit(**row)) if record.outcome == OK):
                    values = record.row()
                    yield {name: values[name] for name in KEYS} | {"batch": batch}

        yield from record_batches(rows(), schema)

    units = [vars(unit) | {"batch": batch} for batch, some in enumerate(batches) for unit in some]
    frame = local_frame(spark, units, struct_of(f"{_UNIT}, batch INT"))
    tasks = max(1, min(len(units), KEY_TASKS_A_CORE * cores))
    return frame.repartition(tasks, "name").mapInArrow(run, KEY_COLUMNS)


def _reader(config: Config) -> Callable[[Unit], Iterator[Record]]:
    sources, max_chars = dict(config.sources), config.ingest.max_chars

    def read(unit: Unit) -> Iterator[Record]:
        source = sources[unit.source]
        columns = source.columns
        return unit_source(unit.kind).records(unit, source.path or "", columns.text, columns.doc_id, max_chars)

    return read


def unit_frame(spark: SparkSession, units: Sequence[Unit]) -> DataFrame:
    """Units as rows, each a task of its own."""
    return local_frame(spark, [vars(u) for u in units], struct_of(_UNIT)).repartition(len(units), "name")


def units_of(batches: Iterable[pa.RecordBatch]) -> Iterator[Unit]:
    """What `unit_frame` gave, on the executor."""
    return (Unit(**row) for batch in batches for row in batch.to_pylist())


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

    def takes_all(self, ctx: StageContext) -> bool:
        """Where every source is searched."""
        return set(ctx.config.sources_with_role("corpus")) == set(ctx.config.sources)

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Cut texts."""
        return chunk(ctx, frames)


INGEST, CHUNK = Ingest(), Chunk()
