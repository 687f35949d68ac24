"""The store: constraints as the last line, idempotent appends, reading at a version, nothing visible of a failed write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from entropylong.errors import TableError
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
    store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP, None)
    with pytest.raises(TableError, match=constraint) as caught:
        store.append("gains", local_frame(spark, [gain_row(), gain_row(**changes)], GAINS.struct), FP, None)
    assert "\n" not in str(caught.value)
    assert store.read("gains", FP).count() == 1


def test_versions_can_be_read(store: Store, spark: SparkSession) -> None:
    for number in (1, 2):
        store.append("gains", local_frame(spark, [gain_row(pair_id=number)], GAINS.struct), FP, "unit")
    assert [store.read("gains", FP, version).count() for version in (0, 1, store.version("gains"))] == [0, 1, 2]
    assert store.read_all("chunks").count() == 0 and store.version("chunks") == -1


def test_the_same_work_of_another_run_on_one_version_is_not_skipped(store: Store, spark: SparkSession) -> None:
    """Delta skips a name that it knows, without a word; its rows may be others."""
    store.create("gains")
    other = Store(spark, store.place("gains").rpartition("/")[0])
    assert other.version("gains") == store.version("gains") == 0
    store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP, "unit")
    other.append("gains", local_frame(spark, [gain_row(pair_id=5)], GAINS.struct), FP, "unit")
    assert other.read("gains", FP).count() == 2 and other.version("gains") == 2


def test_a_commit_is_known_without_what_delta_notes(store: Store, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropylong.storage.store._LAST_COMMIT", "spark.nothing.of.the.kind")
    store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP, "unit")
    assert store.read("gains", FP).count() == 1 and store.version("gains") == 1


def test_a_table_that_another_machine_made_meanwhile_is_seen(store: Store, spark: SparkSession, tmp_path: Path) -> None:
    """Delta looked at its folder before the first commit, and remembers that no table was there."""
    other, folder = Store(spark, str(tmp_path / "other")), Path(store.place("gains"))
    (folder / "_delta_log").mkdir(parents=True)
    assert not store.exists("gains") and store.read("gains", FP).count() == 0
    other.append("gains", local_frame(spark, [gain_row()], GAINS.struct), FP, None)
    shutil.copytree(other.place("gains"), folder, dirs_exist_ok=True)
    assert store.read("gains", FP).count() == 1 and store.exists("gains")


def test_the_newest_version_is_delta_s_own(store: Store, spark: SparkSession) -> None:
    """Also past the checkpoint that Delta writes after ten commits, and after a drop."""
    for number in range(12):
        assert store.version("gains") == number or not number
        store.append("gains", local_frame(spark, [gain_row(pair_id=number)], GAINS.struct), FP, None)
    log = Path(store.place("gains")) / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet")) and (log / "_last_checkpoint").is_file()
    (own,) = store._delta("gains").history(1).select("version").collect()
    assert store.version("gains") == own.version == 12
    store.drop("gains", FP)
    assert store.version("gains") == 13


def test_a_fingerprint_that_is_not_resolved_has_no_rows(store: Store, spark: SparkSession) -> None:
    for value in (FP, FP[::-1]):
        store.append("gains", local_frame(spark, [gain_row()], GAINS.struct), value, None)
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
