"""What runs noted of the tables: nothing is counted again while they stand, and everything once one of them does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entropylong.core.stage import RowStage
from entropylong.pipeline import backlog
from entropylong.pipeline.known import Kind, Known, KnownCounts
from entropylong.pipeline.steps import STEPS, step_writing
from entropylong.reporting.status import status_rows
from entropylong.storage.schemas import TABLES
from tests.conftest import OpenRunner

KNOWN = Known({"gains": "f 3@100"}, 5, (("ok", None, 4), ("error", "TOO_SHORT", 1)))


def test_a_note_holds_while_its_tables_stand_at_its_commits(tmp_path: Path) -> None:
    newest = {"gains": "f 3@100"}
    known = KnownCounts(tmp_path / "counts.json", newest.__getitem__)
    known.note(Kind.COUNTS, "f", "d", KNOWN)
    known.note(Kind.COUNTS, "dropped", "d", KNOWN)
    known.save({"f"})
    known.reload()
    assert known.get(Kind.COUNTS, "f", "d") == KNOWN
    assert (
        not known.get(Kind.COUNTS, "dropped", "d")
        and not known.get(Kind.CONTENT, "f", "d")
        and not known.get(Kind.COUNTS, "f", "other")
    )
    newest["gains"] = "f 3@101"  # made anew, at the same version
    assert known.get(Kind.COUNTS, "f", "d") is None


@pytest.mark.parametrize("damage", [("{", "["), ("}", ""), ('"rows_in": 5', '"rows_in": "many"'), ('"commits"', '"others"')])
def test_a_damaged_file_is_as_none(damage: tuple[str, str], tmp_path: Path) -> None:
    file, newest = tmp_path / "counts.json", {"gains": "f 3@100"}
    known = KnownCounts(file, newest.__getitem__)
    known.note(Kind.COUNTS, "f", "d", KNOWN)
    known.save({"f"})
    assert KnownCounts(file, newest.__getitem__).get(Kind.COUNTS, "f", "d") == KNOWN
    file.write_text(file.read_text().replace(*damage))
    assert KnownCounts(file, newest.__getitem__).get(Kind.COUNTS, "f", "d") is None
    file.write_text("")
    assert KnownCounts(file, newest.__getitem__).get(Kind.COUNTS, "f", "d") is None


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tables whose keys are counted from now on."""
    tables: list[str] = []

    def noting(key_counts: Callable[..., tuple[int, int]]) -> Callable[..., tuple[int, int]]:
        def count(stage: RowStage, *rest: Any) -> tuple[int, int]:
            tables.append(stage.writes)
            return key_counts(stage, *rest)

        return count

    for kind in {type(step) for step in STEPS if isinstance(step, RowStage)}:
        monkeypatch.setattr(kind, "key_counts", noting(kind.key_counts))
    return tables


def test_nothing_is_counted_again_until_a_table_changes(copied: Path, open_runner: OpenRunner, scanned: list[str]) -> None:
    assert open_runner(copied).run().steps == [] and scanned == []
    noted = status_rows(open_runner(copied).state)
    # What runs noted is what stands there.
    (copied / "counts.json").unlink()
    assert status_rows(open_runner(copied).state) == noted
    # Of the other stages each row of the input is a key, so that rows by outcome say it.
    assert set(scanned) == {"scored_documents", "query_vectors", "candidates", "pairs", "context_ids", "gains"}
    assert not (copied / "counts.json").exists(), "whoever only reads notes nothing"
    assert open_runner(copied).run().steps == []
    assert (copied / "counts.json").exists()

    # Rows that are gone are noticed, whoever took them.
    store = open_runner(copied).state.store
    value = open_runner(copied).state.fingerprint("gains")
    (pair,) = store.read("gains", value).select("pair_id").head(1)  # type: ignore[misc]
    store._delta("gains").delete(f"pair_id = {pair.pair_id}")
    scanned.clear()
    done = open_runner(copied).run().steps
    assert "gains" in scanned and "chunks" not in scanned
    assert next(step.step.writes for step in done if step.keys) == "gains"


def test_a_table_made_anew_and_another_choice_of_roots_are_counted(
    copied: Path, open_runner: OpenRunner, scanned: list[str]
) -> None:
    runner = open_runner(copied)
    version, schema = runner.state.store.version("anchors"), TABLES["anchors"].struct
    rows = runner.state.store.read_all("anchors").limit(1).collect()
    shutil.rmtree(copied / "tables" / "anchors")
    shutil.rmtree(copied / "checkpoints" / "anchors")
    # As many commits, but of another setting's rows.
    store = open_runner(copied).state.store
    for _ in range(version):
        store.append("anchors", store.spark.createDataFrame(rows, schema), "another setting")
    assert store.version("anchors") == version
    counted = backlog.counts(open_runner(copied).state, step_writing("anchors"))
    assert counted is not None and counted.left == counted.rows_in > 0

    scanned.clear()
    fewer = backlog.counts(open_runner(copied, "roots.share=0.5").state, step_writing("scored_documents"))
    assert fewer is not None and 0 < fewer.rows_in < 12 and scanned == ["scored_documents"]
