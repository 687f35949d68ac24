"""The one shape of an Arrow UDF: row dictionaries in, row dictionaries out, a model loaded once a worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import Accumulator, SparkContext
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.storage.schemas import NAMES, TableSchema
from entropylong.utils.isolation import isolated, refused
from entropylong.utils.timing import FORWARD, WAITING

Rows = list[dict[str, Any]]
Row = dict[str, Any]

# What goes back to Spark at a time: bytes as estimated, and rows.
OUT_BYTES, OUT_ROWS = 8 << 20, 1024

# Given the batches of one call of `record_batches`, gives those that go on.
BatchHook = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
_hook: BatchHook | None = None


def install_hook(hook: BatchHook | None) -> None:
    """Let all rows that stages write pass through `hook` on their way to Spark, in this process and its forks; None ends that.

    The product has none: `worker_daemon` installs the one that its environment names, which is how a fault is put in.
    """
    global _hook
    _hook = hook


class Meter:
    """Seconds of all tasks of a step, added up across workers: in our own code, and in forward passes within it.

    A task that Spark ran twice counts twice: this is a gauge, nothing is decided by it.
    """

    def __init__(self, context: SparkContext) -> None:
        self.code: Accumulator[float] = context.accumulator(0.0)
        self.forward: Accumulator[float] = context.accumulator(0.0)

    def reset(self) -> None:
        """Begin another step."""
        self.code.value = self.forward.value = 0.0

    def usage(self, slot_seconds: float) -> dict[str, float]:
        """Shares of the slots' time since `reset`; nothing for a step that ran no model."""
        if not self.forward.value:
            return {}
        busy, ours = self.forward.value / slot_seconds, self.code.value / slot_seconds
        return {"accelerator_busy": busy, "arrow_jvm_share": 1.0 - ours}


def map_rows(
    frame: DataFrame,
    schema: TableSchema,
    function: Callable[[Rows], Iterable[Row]],
    keys: Callable[[Row], Iterable[Row]] | None = None,
) -> DataFrame:
    """Apply `function` to the rows of each Arrow batch on the executors; its rows have the columns of `schema`.

    A row on which it raises becomes an error row, code ROW_FAILED.

    Args:
        frame: the rows.
        schema: of what it gives.
        function: rows in, rows out.
        keys: a row in -> the keys of the rows that should have come of it; None: those of its columns that name things.
    """
    arrow = to_arrow_schema(schema.struct)
    keys_of = keys or _own_keys

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = isolated(batch.to_pylist(), lambda part: list(function(list(part))), lambda row, why: _lost(keys_of(row), why))
            yield from record_batches(rows, arrow)

    return frame.mapInArrow(run, schema.ddl)


def _own_keys(row: Row) -> Iterable[Row]:
    return [{name: row[name] for name in NAMES if name in row}]


def _lost(keys: Iterable[Row], why: str) -> Rows:
    return [key | refused("ROW_FAILED", why) for key in keys]


def map_stream(
    frame: DataFrame, schema: TableSchema, meter: Meter, function: Callable[[Iterator[Row]], Iterator[Row]]
) -> DataFrame:
    """Apply `function` to the stream of all rows of a task on the executors, so that it may buffer and sort them.

    Its rows, in any order, have the columns of `schema`.
    """
    arrow = to_arrow_schema(schema.struct)
    code, forward = meter.code, meter.forward

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _metered(record_batches(function(_rows(iter(batches))), arrow), code, forward)

    return frame.mapInArrow(run, schema.ddl)


# A function of the module, not of `run`: what is pickled with `run` would see copies of the clocks.
def _metered(results: Iterator[pa.RecordBatch], code: Accumulator[float], forward: Accumulator[float]) -> Iterator[pa.RecordBatch]:
    forward_before, waited_before, spent = FORWARD.seconds, WAITING.seconds, 0.0
    while True:
        start = time.perf_counter()
        result = next(results, None)
        spent += time.perf_counter() - start
        if result is None:
            break
        yield result
    code.add(spent - (WAITING.seconds - waited_before))
    forward.add(FORWARD.seconds - forward_before)


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    while True:
        with WAITING:
            batch = next(batches, None)
        if batch is None:
            return
        yield from batch.to_pylist()


def record_batches(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as record batches of bounded size, as what Arrow holds of a batch is held twice at its way out."""
    return _hooked(_bounded(rows, schema))


def arrow_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Batches as the whole table that a grouped function gives."""
    return pa.Table.from_batches(_hooked(iter(batches)), schema=schema)


def _hooked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return batches if _hook is None else _hook(batches)


def _bounded(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: Rows = []
    size = 0
    for row in rows:
        held.append(row)
        size += sum(_bytes(value) for value in row.values())
        if size >= OUT_BYTES or len(held) == OUT_ROWS:
            yield pa.RecordBatch.from_pylist(held, schema=schema)
            held, size = [], 0
    if held:
        yield pa.RecordBatch.from_pylist(held, schema=schema)


def _bytes(value: Any) -> int:
    if isinstance(value, list | np.ndarray):
        return 32 * len(value)  # numbers, or small structs of numbers
    return len(value) if isinstance(value, str | bytes) else 8
