"""The sequences of a Delta version as a sealed feed: Parquet files written on the executors, a manifest written at last."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from entropylong.errors import FeedError
from entropylong.training.data.manifest import MANIFEST, FeedFile, FeedManifest, check_place, read_manifest, write_manifest
from entropylong.training.data.rows import COLUMNS, FILE_TOKENS, write_file
from entropylong.utils.locks import locked

_WRITTEN = pa.schema(
    [("name", pa.string()), ("rows", pa.int32()), ("sha256", pa.string()), ("content", pa.string()), ("highest_id", pa.int32())]
)


def seal_feed(rows: DataFrame, folder: Path, *, table: str, fingerprint: str, version: int, length: int) -> FeedManifest:
    """Write a feed, unless it is there. A kill leaves no half of one under its name.

    Args:
        rows: with the columns of `rows.COLUMNS`.
        folder: on storage that the training ranks see too.
        table, fingerprint, version, length: what the manifest states of the rows.

    Raises:
        FeedError: there is no row, or one of another length.
    """
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(f"{folder}.lock"):
        if (folder / MANIFEST).is_file():
            return read_manifest(folder)
        shutil.rmtree(folder, ignore_errors=True)
        building = folder.with_name(f"{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        rows = rows.persist(StorageLevel.DISK_ONLY)
        try:
            files = _write(rows, building, length)
            manifest = FeedManifest(table, fingerprint, version, length, tuple(files))
            _check(rows, manifest)
        finally:
            rows.unpersist()
        write_manifest(building, manifest)
        building.replace(folder)
    return manifest


def _write(rows: DataFrame, building: Path, length: int) -> list[FeedFile]:
    per_file = max(1, FILE_TOKENS // length)
    # The order of ids, which are hashes: the same files whatever cut the table's own.
    order = Window.orderBy("sequence_id")
    numbered = rows.select("sequence_id").select(
        "sequence_id", F.floor((F.row_number().over(order) - 1) / per_file).cast("int").alias("file")
    )
    target = str(building.absolute())

    def write(table: pa.Table) -> pa.Table:
        ordered = table.select(COLUMNS.names).take(pc.sort_indices(table["sequence_id"])).cast(COLUMNS)
        file = write_file(Path(target), table["file"][0].as_py(), ordered)
        return pa.Table.from_pylist([asdict(file)], schema=_WRITTEN)

    written = (
        rows.select(*COLUMNS.names)
        .join(numbered, "sequence_id", how="inner")
        .groupBy("file")
        .applyInArrow(write, "name STRING, rows INT, sha256 STRING, content STRING, highest_id INT")
    )
    return [FeedFile(**row.asDict()) for row in sorted(written.collect(), key=lambda row: row.name)]


def _check(rows: DataFrame, manifest: FeedManifest) -> None:
    counts = rows.agg(F.count(F.lit(1)), F.count_if(F.size("input_ids") != manifest.length)).collect()[0]
    if not counts[0]:
        raise FeedError(f"table {manifest.table}: no sequence to train on; run: entropylong run")
    if counts[1]:
        raise FeedError(f"table {manifest.table}: {counts[1]} sequences have another length than {manifest.length}")
    if manifest.rows != counts[0]:
        raise FeedError(f"table {manifest.table}: {manifest.rows} of {counts[0]} rows were written; run the same command again")
