"""Small DataFrames from rows of the driver."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType


def local_frame(spark: SparkSession, rows: list[dict[str, Any]], schema: StructType) -> DataFrame:
    """A small DataFrame from rows of the driver. By Arrow: from a list, Spark would start Python workers to read it."""
    table = pa.Table.from_pylist(rows, schema=to_arrow_schema(schema))
    return spark.createDataFrame(table, schema)
