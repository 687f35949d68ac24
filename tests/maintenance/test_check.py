"""`entropylong check` passes a sound workspace, and names what was damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.errors import WorkspaceError
from entropylong.maintenance.check import Check, check_sequences, check_workspace, quick_check
from entropylong.storage.store import Store
from tests.conftest import OpenRunner


def failures(checks: list[Check]) -> dict[str, int]:
    return {check.name: check.wrong for check in checks if check.wrong}


def test_a_sound_workspace_passes(finished: Path, open_runner: OpenRunner) -> None:
    checks = check_workspace(open_runner(finished).state)
    assert failures(checks) == {} and len(checks) >= 20
    assert all(check.looked_at > 0 for check in checks)


def test_a_quick_check_reads_no_table(copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says of a table that it was touched, and of an index file that it is another."""
    read, read_all = [], Store.read_all

    def noting(self: Store, table: str, version: int | None = None) -> DataFrame:
        read.append(table)
        return read_all(self, table, version)

    monkeypatch.setattr(Store, "read_all", noting)
    checks = quick_check(open_runner(copied).state)
    assert failures(checks) == {} and len(checks) == 12 and set(read) == {"artifacts"}
    monkeypatch.undo()
    rows = open_runner(copied).state.rows("gains").limit(1)
    DeltaTable.forPath(rows.sparkSession, str(copied / "tables" / "gains")).delete(F.col("pair_id") == rows.collect()[0].pair_id)
    (index,) = (copied / "index").iterdir()
    with (index / "vectors.npy").open("ab") as file:
        file.write(b"more")
    assert set(failures(quick_check(open_runner(copied).state))) == {
        "gains: as a run left it that had nothing left to do",
        "index: its files are there, of their size",
    } | {"sequences: as a run left it that had nothing left to do"}


LINKS = (
    "transform(dependencies, d -> named_struct('root_id', d.root_id, 'chunk_id', {chunk}, 'anchor', {anchor}, "
    "'context_end', d.context_end, 'distance', d.distance, 'gain', d.gain, 'excess_gain', d.excess_gain))"
)
# Column, what it becomes, and the check that names it.
DAMAGES = [
    ("input_ids", "transform(input_ids, (x, i) -> if(i = 40, 9, x))", "sequences: every segment reassembles"),
    ("segments", "slice(segments, 1, size(segments) - 1)", "sequences: segments cover pack.length tokens"),
    ("dependencies", LINKS.format(chunk="7L", anchor="d.anchor"), "dependencies: their chunks exist"),
    (
        "dependencies",
        LINKS.format(chunk="d.chunk_id", anchor="2"),
        "dependencies: context before anchor, both where they say",
    ),
]


def test_damaged_sequences_are_named(finished: Path, open_runner: OpenRunner) -> None:
    state = open_runner(finished).state
    sequences = state.ok_rows("sequences").persist()
    for column, damage, name in DAMAGES:
        counts = failures(check_sequences(state, sequences.withColumn(column, F.expr(damage))))
        assert counts.get(name, 0) > 0, (name, counts)
    sequences.unpersist()


def test_whatever_is_damaged_is_named_and_nothing_else(copied: Path, open_runner: OpenRunner, spark: SparkSession) -> None:
    """Rows lost, doubled and unexplained, a damaged index file, a vector lost, damaged sequences: all in one workspace."""
    places = {
        name: str(copied / "tables" / name) for name in ("chunk_vectors", "anchors", "candidates", "index_cells", "sequences")
    }
    tables = {name: spark.read.format("delta").load(place) for name, place in places.items()}
    for name, chunk in (("chunk_vectors", F.min("chunk_id")), ("index_cells", F.max("chunk_id"))):
        DeltaTable.forPath(spark, places[name]).delete(F.col("chunk_id") == tables[name].agg(chunk).collect()[0][0])
    rows = tables["anchors"].limit(1)  # of whatever outcome
    rows.write.format("delta").mode("append").save(places["anchors"])
    stray = tables["candidates"].limit(1).selectExpr("* except (fingerprint)", "'stranger1' AS fingerprint")
    stray.write.format("delta").mode("append").save(places["candidates"])
    (index,) = (copied / "index").iterdir()
    with (index / "vectors.npy").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")
    column, damage, sequences = DAMAGES[0]
    DeltaTable.forPath(spark, places["sequences"]).update("outcome = 'ok'", {column: damage})
    checks = check_workspace(open_runner(copied).state)
    counts = failures(checks)
    assert counts.pop(sequences) > 0
    assert counts == {
        "chunk_vectors: every key that went in came out": 1,
        "anchors: no root_id twice": 1,
        "fingerprints: all stand in artifacts": 1,
        "index: its files are those of its manifest": 1,
        "index_cells: a row each chunk of the index, and no other": 1,
    }
    assert [check.example for check in checks if check.name == "index: its files are those of its manifest"] == ["vectors.npy"]


def test_it_waits_for_no_run(copied: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    with runner.state.workspace.locked(), pytest.raises(WorkspaceError, match="another run"):
        check_workspace(open_runner(copied).state)
