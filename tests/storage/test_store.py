"""The store: constraints as the last line, one writer at a time, reading at a version, nothing visible of a failed write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from entropylong.errors import ConcurrentRunError, TableError
from entropylong.storage.artifacts import Artifact, Registry, fingerprint
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import GAINS
from entropylong.storage.store import Store

pytestmark = pytest.mark.runtime

FP = "0123456789abcdef"


def gain_row(**changes: Any) -> dict[str, Any]:
    reading = {"position": 3, "entropy_with": 1.5, "nll_with": 2.0, "copy_len": 0}
    row = {"pair_id": 1, "root_id": "r", "chunk_id": 2, "kind": "random", "n_context_tokens": 9, "readings": [reading]}
    return {**row, "outcome": "ok", **changes}


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "tables"))


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"readings": [{"position": 3, "entropy_with": float("nan"), "nll_with": 2.0, "copy_len": 0}]}, "readings_numbers"),
        ({"readings": []}, "readings_numbers"),
        ({"outcome": "fine"}, "outcome_known"),
        ({"outcome": "error"}, "code_unless_ok"),
        ({"outcome": "error", "code": "X", "detail": "x" * 600}, "detail_short"),
    ],
)
def test_constraints_are_the_last_line(store: Store, spark: SparkSession, changes: dict[str, Any], constraint: str) -> None:
    store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP)
    with pytest.raises(TableError, match=constraint) as caught:
        store.append("gains", local_frame(spark, [gain_row(), gain_row(**changes)], GAINS.struct), FP)
    assert "\n" not in str(caught.value)
    assert store.read("gains", FP).count() == 1


def test_versions_can_be_read(store: Store, spark: SparkSession) -> None:
    store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP)
    first = store.version("gains")
    store.append("gains", local_frame(spark, [gain_row(pair_id=5)], GAINS.struct), FP)
    assert (store.read("gains", FP, first).count(), store.read("gains", FP).count()) == (1, 2)
    assert store.read_all("chunks").count() == 0 and store.version("chunks") == -1


def test_of_two_writers_of_a_fingerprint_one_is_refused(store: Store, spark: SparkSession) -> None:
    """Whatever their plans read: these read nothing, which is all that Delta itself goes by."""
    other = Store(spark, str(Path(store.place("gains")).parent))
    rows = [local_frame(spark, [gain_row(pair_id=number)], GAINS.struct) for number in range(5)]
    store.append("gains", rows[0], FP)
    other.append("gains", rows[1], FP)
    with pytest.raises(ConcurrentRunError, match="a run on another machine"):
        store.append("gains", rows[2], FP)  # the other's commit came after the version that this one had seen
    assert {row.pair_id for row in store.read("gains", FP).collect()} == {0, 1}
    store.forget_versions()
    store.append("gains", rows[2], FP)
    store.append("gains", rows[3], FP[::-1])  # rows of another fingerprint are nobody else's matter
    other.forget_versions()
    other.append("gains", rows[4], FP)
    store.append("gains", rows[0], FP[::-1])
    assert {row.pair_id for row in store.read("gains", FP).collect()} == {0, 1, 2, 4}


def test_a_writer_that_is_overtaken_at_work_is_refused(store: Store, spark: SparkSession, tmp_path: Path) -> None:
    """The other one commits while the rows of this one are computed, so after its transaction has begun."""
    other, started, done = Store(spark, str(Path(store.place("gains")).parent)), tmp_path / "started", tmp_path / "done"
    row = local_frame(spark, [gain_row()], GAINS.struct)
    store.append("gains", row, FP)

    def slow(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        started.touch()
        while not done.exists():
            time.sleep(0.05)
        yield from batches

    def overtake() -> None:
        while not started.exists():
            time.sleep(0.05)
        try:
            other.append("gains", row, FP)
        finally:
            done.touch()

    thread = threading.Thread(target=overtake)
    thread.start()
    with pytest.raises(ConcurrentRunError, match="a run on another machine"):
        store.append("gains", row.repartition(1).mapInArrow(slow, row.schema), FP)
    thread.join()
    assert store.read("gains", FP).count() == 2


def test_the_newest_version_is_delta_s_own(store: Store, spark: SparkSession) -> None:
    """Also past the checkpoint that Delta writes after ten commits, and after a drop."""
    for number in range(12):
        assert store.version("gains") == number or not number
        store.append("gains", local_frame(spark, [gain_row(pair_id=number)], GAINS.struct), FP)
    log = Path(store.place("gains")) / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet")) and (log / "_last_checkpoint").is_file()
    (own,) = store._delta("gains").history(1).select("version").collect()
    assert store.version("gains") == own.version == 12
    store.drop("gains", FP)
    assert store.version("gains") == 13


def test_a_fingerprint_that_is_not_resolved_has_no_rows(store: Store, spark: SparkSession) -> None:
    for value in (FP, FP[::-1]):
        store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), value)
    assert (store.read("gains", None).count(), store.read_ok("gains", None).count()) == (0, 0)
    assert (store.read("gains", FP).count(), store.read_all("gains").count()) == (1, 2)
    assert store.read("gains", None).schema.names == store.read("gains", FP).schema.names


def test_artifacts_are_kept_and_written_once(store: Store) -> None:
    value = fingerprint("gains", 1, {"separator": ""}, {"model": "m"}, {})
    artifact = Artifact(value, "verify", "gains", {"separator": ""}, {"model": "m"}, {}, {"pairs": 3}, {"threshold": -(2**62)})
    registry = Registry(store)
    registry.record(artifact)
    registry.record(artifact)
    registry.complete(artifact)
    registry.complete(artifact)
    registry.flush()
    registry.flush()
    assert store.read_all("artifacts").count() == 2
    again = Registry(store)
    entry = again.get(value)
    assert entry is not None and entry.state == "complete" and entry.pinned == {"threshold": -(2**62)}
    assert again.latest("gains", {"separator": ""}, {}) == entry and again.latest("gains", {"separator": " "}, {}) is None
    assert fingerprint("gains", 1, {"separator": " "}, {"model": "m"}, {}) != value
    assert fingerprint("gains", 2, {"separator": ""}, {"model": "m"}, {}) != value
