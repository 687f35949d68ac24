"""Delta tables of the user, by path or by name: a row is a document. Spark reads them, see `delta_tables.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from entropylong.config.sources import SourceConfig, SourceKind
from entropylong.corpus.sources.base import Extent, Sample, TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Delta(TableSource):
    """Rows of a Delta table."""

    kind = SourceKind.DELTA

    def newest_version(self, spark: SparkSession, name: str, source: SourceConfig) -> int:
        """Read the table's log."""
        from entropylong.corpus.sources.delta_tables import newest_version

        return newest_version(spark, name, source)

    def read_table(self, spark: SparkSession, name: str, source: SourceConfig, version: int, max_chars: int) -> DataFrame:
        """Read its rows at a version."""
        from entropylong.corpus.sources.delta_tables import read_table

        return read_table(spark, name, source, version, max_chars)

    def sample(self, name: str, source: SourceConfig, session: Callable[[], SparkSession], extent: Extent) -> Sample:
        """Take some rows, and count them all."""
        from entropylong.corpus.sources.delta_tables import sample_table

        return sample_table(session(), name, source, extent)


RECORD = Delta()
