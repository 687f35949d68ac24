"""`entropylong export`: the packed sequences as Parquet, JSON lines or MDS, for other trainers. Spark."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from entropylong.errors import FeedError, SetupError, UsageError
from entropylong.pipeline.state import PipelineState
from entropylong.training.data.rows import sequence_arrays
from entropylong.training.data.segments import runs

# Tokens of a file: a quarter of a GiB of ids.
_FILE_TOKENS = 1 << 26
# What the MDS format calls each column. uint16 could not hold 128,256 ids; nothing is pickled.
MDS_COLUMNS = {"input_ids": "ndarray:uint32", "indices": "ndarray:uint32", "mask": "ndarray:uint8", "length": "int"}


def export_sequences(state: PipelineState, folder: Path, to: Literal["parquet", "mds", "jsonl"]) -> int:
    """Write the ok rows of `sequences` under the config's fingerprint; a kill leaves nothing under the folder's name.

    Args:
        state: of the workspace.
        folder: made by this.
        to: the format. mds needs mosaicml-streaming where the executors run.

    Returns:
        How many sequences there are.

    Raises:
        UsageError: the folder is there, or its name is one that MDS readers take apart.
        FeedError: there is no sequence.
        SetupError: mosaicml-streaming is not installed.
    """
    folder = folder.expanduser().absolute()
    if folder.exists():
        raise UsageError(f"{folder}: is there already; choose another folder, or remove it")
    if to == "mds":
        if any(mark in str(folder) for mark in "@#"):
            raise UsageError(f"{folder}: trainers split paths of MDS data at @ and #; choose a path without them")
        if importlib.util.find_spec("streaming") is None:
            raise SetupError(
                "export --to mds needs mosaicml-streaming; its own pins contradict ours, so install it beside them: "
                "pip install --no-deps -r requirements-mds.lock"
            )
    value = state.fingerprint("sequences")
    rows = state.store.read_ok("sequences", value, state.store.version("sequences") if value else None)
    count = rows.count()
    if not count:
        raise FeedError("no sequences to export; make them with: entropylong run, with the same config")
    files = max(1, count * state.config.pack.length // _FILE_TOKENS)
    cut = (
        rows.drop("fingerprint", "outcome", "code", "detail")
        .repartitionByRange(files, "sequence_id")
        .sortWithinPartitions("sequence_id")
    )
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    if to == "mds":
        _write_mds(cut, building)
    elif to == "parquet":
        cut.write.option("compression", "zstd").parquet(f"file://{building}")
    else:
        # Bytes have no form in JSON: the mask as numbers.
        cut.withColumn("loss_mask", _numbers("loss_mask")).write.json(f"file://{building}")
    building.replace(folder)
    return count


def _numbers(column: str) -> Column:
    """Bytes as an array of numbers."""
    places = F.sequence(F.lit(1), F.length(column))
    numbers = F.transform(places, lambda n: F.conv(F.hex(F.col(column).substr(n, F.lit(1))), 16, 10).cast("int"))
    return F.when(F.col(column).isNotNull(), numbers)


def _write_mds(rows: DataFrame, building: Path) -> None:
    """A folder of shards a partition, then one index over all of them."""
    target = str(building)
    columns = rows.select("input_ids", "segments", "loss_mask")

    def write(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        from pyspark import TaskContext
        from streaming import MDSWriter

        context = TaskContext.get()
        part = f"{target}/{context.partitionId() if context else 0:05d}"
        shutil.rmtree(part, ignore_errors=True)  # of an attempt that failed
        with MDSWriter(out=part, columns=MDS_COLUMNS, compression="zstd", hashes=["xxh64"]) as writer:
            for batch in batches:
                for ids, segments, mask in zip(*batch.columns, strict=True):
                    writer.write(mds_sample(ids.values.to_numpy(), segments.as_py(), mask.as_py()))
        yield pa.RecordBatch.from_pydict({"part": [part]})

    columns.mapInArrow(write, "part STRING").collect()
    from streaming.base.util import merge_index

    merge_index(target, keep_local=True)


def mds_sample(input_ids: np.ndarray[Any, Any], segments: list[dict[str, Any]], loss_mask: bytes | None) -> dict[str, Any]:
    """A sequence as trainers of the authors' kind read it: `indices` is one attention segment from 0 to the last real token.

    To write its pieces there would turn the run into attention within each document, silently.
    """
    ids, mask, segment, _ = sequence_arrays(input_ids, segments, loss_mask, ())
    return {
        "input_ids": ids.astype(np.uint32),
        "indices": np.array(runs(segment), np.uint32),
        "mask": mask.astype(np.uint8),
        "length": len(ids),
    }
