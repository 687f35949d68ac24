"""The one shape of an Arrow UDF: row dictionaries in, row dictionaries out, a model loaded once a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from entropylong.tables.schemas import TableSchema

Rows = list[dict[str, Any]]


def map_rows(frame: DataFrame, schema: TableSchema, function: Callable[[Rows], Iterable[dict[str, Any]]]) -> DataFrame:
    """Apply `function` to the rows of each Arrow batch on the executors; its rows have the columns of `schema`."""
    arrow = to_arrow_schema(schema.struct)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = list(function(batch.to_pylist()))
            if rows:
                yield pa.RecordBatch.from_pylist(rows, schema=arrow)

    return frame.mapInArrow(run, schema.ddl)


def local_frame(spark: SparkSession, rows: Rows, schema: StructType) -> DataFrame:
    """A small DataFrame from rows of the driver. By Arrow: from a list, Spark would start Python workers to read it."""
    table = pa.Table.from_pylist(rows, schema=to_arrow_schema(schema))
    return spark.createDataFrame(table, schema)


def refused(code: str, detail: str, outcome: str = "error") -> dict[str, Any]:
    """The three columns of a refused row."""
    return {"outcome": outcome, "code": code, "detail": detail[:512]}
