"""The store: constraints as the last line, idempotent appends, reading at a version, nothing visible of a failed write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

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


def gains(spark: SparkSession, *pairs: int) -> DataFrame:
    return local_frame(spark, [gain_row(pair_id=pair) for pair in pairs], GAINS.struct)


def pairs_in(store: Store) -> list[int]:
    return sorted(row.pair_id for row in store.read("gains", FP).collect())


def test_versions_can_be_read(store: Store, spark: SparkSession) -> None:
    writer = store.writer("gains", FP, "unit")
    for number in (1, 2):
        writer.append(gains(spark, number))
        assert writer.number == number
    assert [store.read("gains", FP, version).count() for version in (0, 1, store.version("gains"))] == [0, 1, 2]
    assert store.read_all("chunks").count() == 0 and store.version("chunks") == -1


def other_store(store: Store) -> Store:
    return Store(store.spark, store.place("gains").rpartition("/")[0])


def test_what_another_run_adds_to_the_same_work_refuses_the_next_append(store: Store, spark: SparkSession) -> None:
    """Delta skips a number that it knows, without a word; its rows may be others."""
    store.create("gains")
    mine, others = store.writer("gains", FP, "unit"), other_store(store).writer("gains", FP, "unit")
    others.append(gains(spark, 1))
    others.append(gains(spark, 2))
    with pytest.raises(ConcurrentRunError, match="run on another machine"):
        mine.append(gains(spark, 3))
    assert pairs_in(store) == [1, 2]
    # Whoever begins after that goes on; the other one has lost its right.
    later = other_store(store).writer("gains", FP, "unit")
    assert later.number == 2 and later.may_have_rows
    later.append(gains(spark, 3))
    with pytest.raises(ConcurrentRunError):
        others.append(gains(spark, 4))
    assert pairs_in(store) == [1, 2, 3]


def test_works_beside_each_other_do_not_refuse_each_other(store: Store, spark: SparkSession) -> None:
    """Other work's commits, compaction and dropped rows in between: only the own work's commits count."""
    mine, others = store.writer("gains", FP, "unit"), other_store(store).writer("gains", FP, "another")
    for number in (1, 3):
        mine.append(gains(spark, number))
        others.append(gains(spark, number + 1))
    store.compact("gains")
    store.append("gains", gains(spark, 5), FP)
    mine.append(gains(spark, 6))
    assert pairs_in(store) == [1, 2, 3, 4, 5, 6]
    assert [other_store(store).writer("gains", FP, work).number for work in ("unit", "another", "third")] == [3, 2, 0]
    store.drop("gains", FP)
    again = other_store(store).writer("gains", FP, "unit")
    again.append(gains(spark, 7))
    assert pairs_in(store) == [7] and again.number == 4


def test_a_work_older_than_the_history_goes_on(store: Store, spark: SparkSession) -> None:
    """Delta forgets old commits, never the numbers of their transactions."""
    old = store.writer("gains", FP, "unit")
    for number in range(3):
        old.append(gains(spark, number))
    for number in range(3, 12):
        store.append("gains", gains(spark, number), FP)
    log = Path(store.place("gains")) / "_delta_log"
    assert list(log.glob("*10.checkpoint.parquet"))
    for version in range(10):
        (log / f"{version:020}.json").unlink()
    one = other_store(store).writer("gains", FP, "unit")
    store.append("gains", gains(spark, 12), FP)
    other = other_store(store).writer("gains", FP, "unit")
    other.append(gains(spark, 13))
    for refused in (one, old):
        with pytest.raises(ConcurrentRunError):
            refused.append(gains(spark, 99))
    assert pairs_in(store) == list(range(14))
    assert other_store(store).writer("gains", FP, "unit").last == other.last


def test_a_commit_is_known_without_what_delta_notes(store: Store, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropylong.storage.store._LAST_COMMIT", "spark.nothing.of.the.kind")
    writer = store.writer("gains", FP, "unit")
    writer.append(gains(spark, 1))
    assert pairs_in(store) == [1] and store.version("gains") == 1
    other_store(store).writer("gains", FP, "unit").append(gains(spark, 2))
    with pytest.raises(ConcurrentRunError):
        writer.append(gains(spark, 3))


def test_a_table_that_another_machine_made_meanwhile_is_seen(store: Store, spark: SparkSession, tmp_path: Path) -> None:
    """Delta looked at its folder before the first commit, and remembers that no table was there."""
    other, folder = Store(spark, str(tmp_path / "other")), Path(store.place("gains"))
    (folder / "_delta_log").mkdir(parents=True)
    assert not store.exists("gains") and store.read("gains", FP).count() == 0
    other.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP)
    shutil.copytree(other.place("gains"), folder, dirs_exist_ok=True)
    assert store.read("gains", FP).count() == 1 and store.exists("gains")


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
