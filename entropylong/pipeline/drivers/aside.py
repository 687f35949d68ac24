"""What a run writes aside to read it part by part: a folder a part, so that to read one costs the same however many there are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from entropylong.pipeline.state import PipelineState


class Aside:
    """Frames that were cut by a number.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def cut(self, name: str, frame: DataFrame, part: str) -> DataFrame:
        """Write a frame, and give it as it can be read by `of_part`.

        Args:
            name: Of the frame.
            frame: With column `part`, an INT.
            part: The number to cut it by.
        """
        path = str(self._folder / name)
        frame.write.partitionBy(part).mode("overwrite").parquet(path)
        fields = [field for field in frame.schema.fields if field.name != part]
        schema = StructType([*fields, StructField(part, IntegerType())])
        return frame.sparkSession.read.schema(schema).parquet(path)


def of_part(frame: DataFrame, part: str, number: int) -> DataFrame:
    """Read one part."""
    return frame.where(F.col(part) == number).drop(part)


@contextmanager
def aside(state: PipelineState, table: str) -> Iterator[Aside]:
    """Hold a folder for the work on a table, and remove it at the end; of a run that was killed, the next one does."""
    folder = state.workspace.units / table
    try:
        yield Aside(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
