"""New text: as roots it is appended, as corpus it takes effect by a new generation of the index; only what is new is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

from entropylong.pipeline.runner import Runner
from tests import tiny
from tests.conftest import OpenRunner, rows_of


def done_keys(runner: Runner) -> dict[str, int]:
    """Count the keys that a run of all stages did, by table."""
    return {step.step.writes: step.keys for step in runner.run().steps}


def test_new_text_and_a_new_generation(
    copied: Path, corpus: Path, open_runner: OpenRunner, tmp_path: Path, messages: list[str]
) -> None:
    folder = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    before = open_runner(copied, source=folder)
    first, chunks = before.state.fingerprint("index"), before.state.store.read_all("chunks").count()
    candidates = rows_of(before, "candidates", ["root_id", "position", "hits"])
    passes = before.state.store.read_all("gains").count()
    tiny.write_jsonl(folder / "part-3.jsonl", tiny.documents(15)[12:])

    done = done_keys(open_runner(copied, source=folder))
    assert {table: done[table] for table in ("documents", "scored_documents")} == {"documents": 1, "scored_documents": 3}
    assert done["chunks"] == 3 and "index" not in done and "chunk: 3 documents in" in " ".join(messages), (
        "only the new is computed, and told"
    )
    after = open_runner(copied, source=folder)
    assert after.state.fingerprint("index") == first
    rows = rows_of(after, "candidates", ["root_id", "position", "hits"])
    assert [row for row in rows if row in candidates] == candidates and len(rows) > len(candidates)
    new_chunks = _chunks_of(after, 12)
    assert not any(hit.chunk_id in new_chunks for _, _, hits in rows for hit in hits or ())  # type: ignore[attr-defined]

    assert after.refresh()
    second = open_runner(copied, source=folder).state.fingerprint("index")
    assert second != first and any(line.startswith("index: done in") for line in messages)
    assert not open_runner(copied, source=folder).refresh(), "nothing is new: the same generation"
    measured = after.state.store.read_all("gains").count()
    last = open_runner(copied, source=folder)
    done = done_keys(last)
    assert set(done) >= {"candidates", "pairs", "sequences"} and not {
        "documents",
        "chunks",
        "chunk_vectors",
        "scored_documents",
    } & set(done)
    refreshed_rows = rows_of(last, "candidates", ["root_id", "position", "hits"])
    assert len(refreshed_rows) == len(rows) and refreshed_rows != rows
    assert any(hit.chunk_id in new_chunks for _, _, hits in refreshed_rows for hit in hits or ())  # type: ignore[attr-defined]
    # What was measured is not measured again: each (pair, position) has one reading.
    readings = last.state.ok_rows("gains").selectExpr("pair_id", "explode(readings.position) AS p")
    assert readings.groupBy("pair_id", "p").count().where("count > 1").count() == 0
    assert measured > passes and last.state.store.read_all("chunks").count() > chunks
    assert last.state.store.read("candidates", before.state.fingerprint("candidates")).count() == len(rows), (
        "the old generation stays"
    )
    assert last.run().steps == []


def _chunks_of(runner: Runner, first: int) -> set[int]:
    names = [f"doc-{number:04d}" for number in range(first, first + 3)]
    rows = runner.state.store.read_all("chunks").collect()
    return {row.chunk_id for row in rows if row.doc_id in names}
