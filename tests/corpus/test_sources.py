"""Sources in Spark: duplicates and conflicts in any order, a Delta table, mapped columns; one ok row a doc and a text."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from entropylong.config import load_config
from entropylong.errors import NothingToDoError, QuarantineExceededError, UsageError
from entropylong.maintenance.quarantine import quarantine_rows
from entropylong.reporting.inspect import inspect_root
from tests import tiny
from tests.conftest import CONF, OpenRunner, rows_of

pytestmark = pytest.mark.runtime


def outcomes(runner: object) -> dict[str, list[tuple[str, str | None]]]:
    by_id: dict[str, list[tuple[str, str | None]]] = {}
    for doc_id, outcome, code in rows_of(runner, "documents", ["doc_id", "outcome", "code"]):  # type: ignore[arg-type]
        by_id.setdefault(str(doc_id), []).append((str(outcome), code))  # type: ignore[arg-type]
    return {doc: sorted(values, key=str) for doc, values in by_id.items()}


def test_conflicts_duplicates_and_reserved_ids_do_not_depend_on_order(tmp_path: Path, open_runner: OpenRunner) -> None:
    rows = [
        {"doc_id": "a", "text": "first text"},
        {"doc_id": "a", "text": "second text"},
        {"doc_id": "b", "text": "shared text"},
        {"doc_id": "c", "text": "shared text"},
        {"doc_id": "d", "text": "same twice"},
        {"doc_id": "d", "text": "same twice"},
        {"doc_id": "canary:x", "text": "mine"},
    ]
    results = []
    for number, ordered in enumerate((rows, rows[::-1])):
        source = tiny.write_jsonl(tmp_path / str(number) / "docs.jsonl", ordered)
        runner = open_runner(tmp_path / f"w{number}", "canaries=1", "quarantine.max_rate=1", source=source)
        runner.run(["ingest"])
        results.append(outcomes(runner))
        assert sum(map(len, results[-1].values())) == len(rows) + 2, "every input record has its row, and so has what is planted"
    assert results[0] == results[1]
    assert results[0]["a"] == [("error", "CONFLICTING_ID"), ("ok", None)]
    assert results[0]["b"] == [("ok", None)] and results[0]["c"] == [("skipped", "DUPLICATE_TEXT")]
    assert results[0]["d"] == [("ok", None), ("skipped", "DUPLICATE_TEXT")]
    assert results[0]["canary:x"] == [("error", "RESERVED_ID")]
    assert results[0]["canary:00000:root"] == results[0]["canary:00000:fact"] == [("ok", None)]


def test_one_file_under_two_roles_keeps_its_roots(tmp_path: Path, open_runner: OpenRunner) -> None:
    source = tiny.write_jsonl(tmp_path / "docs.jsonl", [{"doc_id": "a", "text": "a text"}, {"doc_id": "b", "text": "b text"}])
    keys = [f"sources.{name}.{key}" for name, role in (("corpus", "corpus"), ("roots", "root")) for key in
            ("kind=jsonl", f"path={source}", f"role={role}")]  # fmt: skip
    config = load_config(CONF / "demo.yaml", ["run.batch_bytes=1", f"workspace={tmp_path / 'w'}"])
    mine = load_config(CONF / "demo.yaml", [*keys, f"workspace={tmp_path / 'w'}", "run.batch_bytes=1"])
    sources = {name: s for name, s in mine.sources.items() if name not in config.sources}
    runner = open_runner(tmp_path / "w", source=source)
    runner.state.config = mine.model_copy(update={"sources": sources})
    runner.run(["ingest"])
    rows = rows_of(runner, "documents", ["doc_id", "source", "outcome"])
    assert rows == [("a", "corpus", "skipped"), ("a", "roots", "ok"), ("b", "corpus", "skipped"), ("b", "roots", "ok")]
    assert runner.run(["ingest"]).steps == []


def test_committed_documents_win_and_a_mended_file_is_read_again(tmp_path: Path, open_runner: OpenRunner) -> None:
    folder = tmp_path / "docs"
    tiny.write_jsonl(folder / "1.jsonl", [{"doc_id": "a", "text": "zzz committed"}, {"doc_id": "b", "text": "bbb"}])
    tiny.write_jsonl(folder / "3.jsonl", [{"doc_id": "c", "text": "ccc"}, {"doc_id": "d", "text": None}])
    open_runner(tmp_path / "w", "quarantine.max_rate=1", source=folder).run(["ingest"])
    tiny.write_jsonl(folder / "2.jsonl", [{"doc_id": "a", "text": "aaa later"}, {"doc_id": "0", "text": "bbb"}])
    tiny.write_jsonl(folder / "3.jsonl", [{"doc_id": "c", "text": "ccc"}, {"doc_id": "d", "text": "was broken"}])
    runner = open_runner(tmp_path / "w", "quarantine.max_rate=1", source=folder)
    runner.run(["ingest"])
    rows = [row for row in rows_of(runner, "documents", ["doc_id", "text", "outcome"]) if row[0] in ("a", "b")]
    assert [row for row in rows if row[2] == "ok"] == [("a", "zzz committed", "ok"), ("b", "bbb", "ok")]
    by_id = outcomes(runner)
    assert by_id["0"] == [("skipped", "DUPLICATE_TEXT")]
    assert by_id["c"] == [("ok", None), ("skipped", "DUPLICATE_TEXT")] and by_id["d"] == [("error", "NO_TEXT"), ("ok", None)]


def test_too_many_errors_fail_the_run_and_quarantine_says_why(tmp_path: Path, open_runner: OpenRunner) -> None:
    rows = [{"doc_id": str(i), "text": f"text {i}" if i else None} for i in range(10)]
    source = tiny.write_jsonl(tmp_path / "docs.jsonl", rows)
    with pytest.raises(QuarantineExceededError, match=r"1 of 10 rows refused \(1 NO_TEXT\)"):
        open_runner(tmp_path / "w", source=source).run(["ingest"])
    runner = open_runner(tmp_path / "w", source=source)
    assert len(rows_of(runner, "documents", ["doc_id"])) == 10
    (row,) = quarantine_rows(runner.state, 10)
    assert (row["stage"], row["key"]["doc_id"], row["code"]) == ("ingest", "0", "NO_TEXT")


def test_of_a_root_that_is_not_there_inspect_says_why(finished: Path, open_runner: OpenRunner) -> None:
    with pytest.raises(UsageError, match="not among the scored roots"):
        inspect_root(open_runner(finished).state, "nobody")


def test_a_delta_table_with_its_own_columns(tmp_path: Path, open_runner: OpenRunner, spark: SparkSession) -> None:
    table = tmp_path / "articles"

    def write(urls: list[str], bodies: list[str | None]) -> None:
        frame = spark.createDataFrame(pa.table({"url": urls, "body": pa.array(bodies, pa.string())}))
        frame.write.format("delta").mode("append").save(str(table))

    write(["u1", "u2", "u3"], ["text one", "text two", None])
    keys = ["sources.articles.columns.text=body", "sources.articles.columns.doc_id=url", "quarantine.max_rate=1"]
    runner = open_runner(tmp_path / "w", *keys, source=table)
    runner.run(["ingest"])
    assert outcomes(runner) == {"u1": [("ok", None)], "u2": [("ok", None)], "u3": [("error", "NO_TEXT")]}
    assert open_runner(tmp_path / "w", *keys, source=table).run(["ingest"]).steps == []
    write(["u4", "u1"], ["text four", "text one"])
    again = open_runner(tmp_path / "w", *keys, source=table)
    again.run(["ingest"])
    assert sorted(outcomes(again)) == ["u1", "u2", "u3", "u4"] and outcomes(again)["u1"] == [("ok", None)]


@pytest.mark.parametrize(
    ("rows", "messages"),
    [([], ["no record at all"]), ([{"text": ""}, {"text": " \n"}, {"txt": "x"}], ["2 BLANK_TEXT", "1 NO_TEXT"])],
)
def test_a_corpus_without_text_is_told(
    rows: list[dict[str, object]], messages: list[str], tmp_path: Path, open_runner: OpenRunner
) -> None:
    source = tiny.write_jsonl(tmp_path / "docs.jsonl", rows)
    with pytest.raises(NothingToDoError) as caught:
        open_runner(tmp_path / "w", source=source).run(["ingest"])
    assert all(message in str(caught.value) for message in messages)
