"""What Spark does for sources of kind `delta`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.config.sources import SourceConfig
from entropylong.corpus.sources.base import RECORD_COLUMNS, Extent, Sample, to_record
from entropylong.errors import SourceError
from entropylong.storage.schemas import struct_of
from entropylong.storage.statements import quoted
from entropylong.utils.hashing import xxhash64


def newest_version(spark: SparkSession, name: str, source: SourceConfig) -> int:
    """The newest Delta version of a source table.

    Raises:
        SourceError: there is no such Delta table, or it cannot be read.
    """
    try:
        table = DeltaTable.forName(spark, quoted(source.table)) if source.table else DeltaTable.forPath(spark, str(source.path))
        return int(table.history(1).select("version").collect()[0][0])
    except PySparkException as error:
        reason = " ".join(str(error).split())[:160]
        raise SourceError(f"source {name}: no readable Delta table at {source.table or source.path}: {reason}") from None


def read_table(spark: SparkSession, name: str, source: SourceConfig, version: int, max_chars: int) -> DataFrame:
    """Records of the rows of a user's Delta table at one version, with the same checks as files.

    A row of a table has no place of its own: id and text name it, and a copy of it is the same record.
    """
    frame = _table_at(spark, name, source, version)
    columns = source.columns
    doc_id = F.col(columns.doc_id).cast("string") if columns.doc_id in frame.columns else F.lit(None).cast("string")
    schema = to_arrow_schema(struct_of(RECORD_COLUMNS))

    def check(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = []
            for row in batch.to_pylist():
                own_id, value = row["doc_id"], row["text"]
                origin = f"row:{xxhash64(own_id or '', value.decode('utf-8', 'replace') if value else '') & (2**64 - 1)}"
                rows.append(to_record(name, origin, own_id, value, max_chars).row())
            yield pa.RecordBatch.from_pylist(rows, schema=schema)

    text = F.col(columns.text).cast("string").cast("binary").alias("text")
    return frame.select(doc_id.alias("doc_id"), text).mapInArrow(check, RECORD_COLUMNS)


def sample_table(spark: SparkSession, name: str, source: SourceConfig, extent: Extent) -> Sample:
    """Some rows of a user's Delta table, so many as a driver can hold, also of books.

    Raises:
        SourceError: there is no such table, it cannot be read, or it lacks the column that is asked for.
    """
    try:
        if extent.columns is None:
            frame = _newest(spark, source)
            chosen = [_light(field) for field in frame.schema]
        else:
            frame = _table_at(spark, name, source, newest_version(spark, name, source))
            chosen = [F.col(extent.text).cast("string").alias(extent.text)]
        some = frame.select(*chosen).limit(extent.units * extent.records)
        sizes = [
            F.coalesce(F.length(quoted(field.name, None)), F.lit(0))
            for field in some.schema
            if isinstance(field.dataType, (T.StringType, T.BinaryType))
        ]
        mean = some.agg(F.avg(sum(sizes, F.lit(1)))).collect()[0][0] or 1.0
        rows = some.limit(max(1, int(extent.units * extent.n_bytes / mean))).collect()
        documents = float(frame.count())
        return Sample([row.asDict() for row in rows], documents, documents / max(1, len(rows)))
    except PySparkException as error:
        reason = " ".join(str(error).split())[:160]
        raise SourceError(f"cannot read {source.table or source.path}: {reason}") from None


def _newest(spark: SparkSession, source: SourceConfig) -> DataFrame:
    reader = spark.read.format("delta")
    return reader.table(source.table) if source.table else reader.load(str(source.path))


def _table_at(spark: SparkSession, name: str, source: SourceConfig, version: int) -> DataFrame:
    reader = spark.read.format("delta").option("versionAsOf", version)
    frame = reader.table(quoted(source.table)) if source.table else reader.load(str(source.path))
    text = source.columns.text
    if text not in frame.columns:
        have = ", ".join(frame.columns)
        raise SourceError(f"source {name}: no column {text!r} (it has {have}); map it with sources.{name}.columns.text")
    return frame


def _light(field: T.StructField) -> Column:
    """The column; of what is nested only that it is there: it can be neither text nor id, and vectors are large."""
    column = F.col(quoted(field.name, None))
    if isinstance(field.dataType, T.ArrayType):
        return F.when(column.isNotNull(), F.array()).alias(field.name)
    if isinstance(field.dataType, (T.StructType, T.MapType)):
        return F.when(column.isNotNull(), F.create_map()).alias(field.name)
    return column
