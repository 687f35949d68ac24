"""`entropylong check` passes a sound workspace, and names what was damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from entropylong.errors import WorkspaceError
from entropylong.maintenance.check import Check, check_workspace
from tests.conftest import OpenRunner


def failures(checks: list[Check]) -> dict[str, int]:
    return {check.name: check.wrong for check in checks if check.wrong}


def test_a_sound_workspace_passes(finished: Path, open_runner: OpenRunner) -> None:
    checks = check_workspace(open_runner(finished).state)
    assert failures(checks) == {} and len(checks) >= 20
    assert all(check.looked_at > 0 for check in checks)


@pytest.mark.parametrize(
    ("table", "change", "name"),
    [
        ("sequences", {"input_ids": "transform(input_ids, (x, i) -> if(i = 40, 9, x))"}, "sequences: every segment reassembles"),
        ("sequences", {"segments": "slice(segments, 1, size(segments) - 1)"}, "sequences: segments cover pack.length tokens"),
        (
            "sequences",
            {"dependencies": "transform(dependencies, d -> named_struct('root_id', d.root_id, 'chunk_id', 7L, 'anchor', d.anchor, "
             "'context_end', d.context_end, 'distance', d.distance, 'gain', d.gain, 'excess_gain', d.excess_gain))"},
            "dependencies: their chunks exist",
        ),
        (
            "sequences",
            {"dependencies": "transform(dependencies, d -> named_struct('root_id', d.root_id, 'chunk_id', d.chunk_id, 'anchor', 2, "
             "'context_end', d.context_end, 'distance', d.distance, 'gain', d.gain, 'excess_gain', d.excess_gain))"},
            "dependencies: context before anchor, both where they say",
        ),
    ],
)  # fmt: skip
def test_damaged_sequences_are_named(
    table: str, change: dict[str, str], name: str, copied: Path, open_runner: OpenRunner, spark: SparkSession
) -> None:
    DeltaTable.forPath(spark, str(copied / "tables" / table)).update("outcome = 'ok'", change)
    counts = failures(check_workspace(open_runner(copied).state))
    assert counts.get(name, 0) > 0, counts


def test_lost_doubled_and_unexplained_rows_are_named(copied: Path, open_runner: OpenRunner, spark: SparkSession) -> None:
    tables = {name: str(copied / "tables" / name) for name in ("chunk_vectors", "anchors", "candidates")}
    vectors = spark.read.format("delta").load(tables["chunk_vectors"])
    one = vectors.orderBy("chunk_id").limit(1).collect()[0]
    DeltaTable.forPath(spark, tables["chunk_vectors"]).delete(f"chunk_id = {one.chunk_id}")
    rows = spark.read.format("delta").load(tables["anchors"]).limit(1)  # of whatever outcome
    rows.write.format("delta").mode("append").save(tables["anchors"])
    stray = (
        spark.read.format("delta")
        .load(tables["candidates"])
        .limit(1)
        .selectExpr("* except (fingerprint)", "'stranger1' AS fingerprint")
    )
    stray.write.format("delta").mode("append").save(tables["candidates"])
    counts = failures(check_workspace(open_runner(copied).state))
    assert counts["chunk_vectors: every key that went in came out"] == 1
    assert counts["anchors: no root_id twice"] == 1
    assert counts["fingerprints: all stand in artifacts"] == 1


def test_a_damaged_index_file_is_named(copied: Path, open_runner: OpenRunner) -> None:
    (index,) = (copied / "index").iterdir()
    with (index / "vectors.npy").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")
    checks = check_workspace(open_runner(copied).state)
    assert failures(checks) == {"index: its files are those of its manifest": 1}
    assert [check.example for check in checks if check.wrong] == ["vectors.npy"]


def test_a_lost_vector_is_named(copied: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    cells = DeltaTable.forPath(runner.state.spark, runner.state.store.place("index_cells"))
    cells.delete(F.col("chunk_id") == runner.state.store.read_all("index_cells").agg(F.max("chunk_id")).collect()[0][0])
    assert failures(check_workspace(open_runner(copied).state)) == {"index_cells: a row each chunk of the index, and no other": 1}


def test_it_waits_for_no_run(copied: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    with runner.state.workspace.locked(), pytest.raises(WorkspaceError, match="another run"):
        check_workspace(open_runner(copied).state)
