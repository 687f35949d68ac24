"""Upkeep changes no row that is in use: generations dropped whole, files written anew, old files deleted with care."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from entropylong.maintenance import tables
from entropylong.maintenance.tables import compact, drop_leftovers, idle_exclusions, leftovers
from entropylong.reporting.status import others_table, status_rows
from entropylong.storage.schemas import TABLES
from entropylong.storage.store import Store
from entropylong.training.settings import TrainSettings
from entropylong.training.steps import StepLog, StepMetrics
from tests import tiny
from tests.conftest import OpenRunner, rows_of

COLUMNS = {"scored_documents": ["root_id", "input_ids"], "candidates": ["root_id", "position", "hits"],
           "sequences": ["sequence_id", "input_ids"]}  # fmt: skip


def test_compaction_and_gc_change_no_row_in_use(copied: Path, finished: Path, open_runner: OpenRunner) -> None:
    expected = {table: rows_of(open_runner(finished), table, columns) for table, columns in COLUMNS.items()}
    runner = open_runner(copied)
    done = {one.table: one for one in compact(runner.state, vacuum=True, few_files=1)}
    assert set(done) == set(TABLES) - {"query_cells", "partial_candidates"}
    assert done["documents"].files_after < done["documents"].files_before
    assert {table: rows_of(open_runner(copied), table, columns) for table, columns in COLUMNS.items()} == expected
    pinned = runner.state.registry.get(runner.state.fingerprint("index") or "-")
    assert pinned is not None
    assert runner.state.store.read_all("chunk_vectors", version=pinned.input_versions["chunk_vectors"]).count() > 0, (
        "a pinned version can be read"
    )
    other = open_runner(copied, "anchors.alpha=1.5")
    redone = [step.step.writes for step in other.run().steps]
    expected_steps = ["anchors", "query_vectors", "candidates", "pairs", "context_ids", "gains", "sequences"]
    assert redone == expected_steps, "streams are given nothing again"
    value = other.state.fingerprint("anchors")
    exams = [tiny.write_jsonl(copied.parent / f"{n}.jsonl", [{"q": f"exam {n} " + " ".join(map(str, range(20)))}]) for n in "ab"]
    for exam in exams:
        open_runner(copied, f"corpus.exclude=[{exam}]")
    gone, stays = (Path(open_runner(copied, f"corpus.exclude=[{exam}]").state.context.excluded.directory) for exam in exams)  # type: ignore[union-attr]
    assert idle_exclusions(open_runner(copied, f"corpus.exclude=[{exams[1]}]").state) == [gone] and stays.is_dir()
    runner = open_runner(copied)
    entries = leftovers(runner.state)
    assert {left.table for left in entries} == {"anchors", "pairs", "sequences"}
    assert {left.fingerprint for left in entries if left.table == "anchors"} == {value}
    assert {left.differs_by for left in entries if left.table == "anchors"} == {"anchors.alpha=1.5"}
    stale, begun, ended = (copied / "feeds" / f"{name}-v1" for name in ("stale", "begun", "ended"))
    (mine := copied / "feeds" / f"{runner.state.fingerprint('sequences')}-v1").mkdir(parents=True)
    for feed, steps in ((stale, None), (begun, 2), (ended, 1)):
        feed.mkdir()
        if steps is not None:
            folder = copied / "training" / feed.name
            run = TrainSettings("m", feeds=(str(feed),), weights=(1.0,), folder=str(folder), length=8, batch=1, steps=steps,
                                learning_rate=1.0, final_rate=0.0, warmup=0.0, weight_decay=0.0, clip=1.0, rope_base=None,
                                dtype="float32", seed=0, node_cache="")  # fmt: skip
            run.write()
            StepLog(folder).add({**dict.fromkeys((field.name for field in fields(StepMetrics)), 1.0), "step": 1})
            (folder / "model").mkdir()
    assert drop_leftovers(runner.state) == entries and leftovers(runner.state) == []
    assert mine.is_dir() and begun.is_dir(), "a run that is not at its end needs its feed"
    assert not stale.exists() and not ended.exists() and not gone.exists()
    assert runner.state.store.read("anchors", value).count() == 0 and runner.state.registry.get(value or "-") is None
    assert not (copied / "checkpoints" / "anchors" / str(value)).exists()
    again = open_runner(copied)
    assert again.run().steps == [], "what this config uses is all there, and streams are given nothing again"
    for table, columns in COLUMNS.items():
        if table == "candidates":
            continue  # of an anchor, under any alpha: both settings share them
        assert rows_of(again, table, columns) == expected[table]
    back = open_runner(copied, "anchors.alpha=1.5")
    redone = [step.step.writes for step in back.run(["score", "anchors", "search", "pairs", "verify", "pack"]).steps]
    assert {"anchors", "pairs", "sequences"} <= set(redone), "dropped is dropped, and can be made again"
    assert "scored_documents" not in redone and rows_of(back, "sequences", ["sequence_id"])


def test_status_shows_another_model_s_rows_beside_the_first(copied: Path, open_runner: OpenRunner, tmp_path: Path) -> None:
    lm = tiny.make_causal_lm(tmp_path / "other", seed=1)
    other = open_runner(copied, f"model.name={lm}", "roots.share=0.5")
    other.run(["score"])
    (row,) = [row for row in status_rows(open_runner(copied).state) if row["table"] == "scored_documents"]
    (beside,) = row["others"]
    assert row["done"] == 12 and 0 < beside["rows"] < 12 and beside["fingerprint"] == other.state.fingerprint("scored_documents")
    assert beside["differs_by"].startswith("model ")
    console = Console(width=100, record=True, file=StringIO())
    console.print(others_table([row]))
    assert "under other settings" in console.export_text()
    assert others_table([{**row, "others": []}]) is None


def test_retention_reaches_back_to_what_an_index_was_built_from(
    finished: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = open_runner(finished)
    assert tables._retention_hours(runner.state) == 168
    monkeypatch.setattr(Store, "version_time", lambda self, table, version: datetime.now(UTC) - timedelta(days=30))
    assert tables._retention_hours(runner.state) in (721, 722)
