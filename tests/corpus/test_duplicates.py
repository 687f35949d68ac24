"""Copies and conflicts: what Spark finds once a run is what a plain loop finds, and however the input is cut, the same stays."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyspark.sql import DataFrame, SparkSession

from entropylong.config import Config
from entropylong.corpus.duplicates import duplicates
from entropylong.storage.writer import Writer
from tests import tiny
from tests.conftest import OpenRunner, rows_of

Key = tuple[str, int, str, str]
CONFIG = cast(Config, SimpleNamespace(sources_with_role=lambda role: ["book"]))


def reference(new: list[Key], committed: list[tuple[str, int]]) -> dict[tuple[str, str], str]:
    """Code of each refused record, by source and origin: one record after the other against all others."""
    hash_of, codes = dict(committed), {}
    smallest: dict[str, int] = {}
    for doc_id, text_hash, _, _ in new:
        smallest[doc_id] = min(text_hash, smallest.get(doc_id, text_hash))
    texts = {text_hash for _, text_hash in committed}
    best: dict[int, tuple[Any, ...]] = {}
    rest = []
    for doc_id, text_hash, source, origin in new:
        if text_hash != hash_of.get(doc_id, smallest[doc_id]):
            codes[source, origin] = "CONFLICTING_ID"
        else:
            place = (source != "book", doc_id, source, origin)
            best[text_hash] = min(place, best.get(text_hash, place))
            rest.append((text_hash, place))
    for text_hash, place in rest:
        if text_hash in texts or place != best[text_hash]:
            codes[place[2], place[3]] = "DUPLICATE_TEXT"
    return codes


@pytest.mark.parametrize("has_committed", [False, True])
def test_spark_finds_what_a_loop_finds(spark: SparkSession, has_committed: bool) -> None:
    rng = random.Random(3)
    # Few ids and few texts, so that chains of both occur: a text that loses its id may be a copy of another's.
    new = [(f"d{rng.randrange(60)}", rng.randrange(50), rng.choice(["book", "web"]), f"f:{n}") for n in range(300)]
    committed = [(f"d{n}", 45 + n) for n in range(10)] if has_committed else []
    frame = spark.createDataFrame(new, "doc_id STRING, text_hash BIGINT, source STRING, origin STRING")
    old = spark.createDataFrame(committed, "doc_id STRING, text_hash BIGINT") if has_committed else None
    found = {(row.source, row.origin): row for row in duplicates(frame, old, CONFIG).collect()}
    expected = reference(new, committed)
    assert {key: row.code for key, row in found.items()} == expected
    assert {row.outcome for row in found.values() if row.code == "DUPLICATE_TEXT"} == {"skipped"}
    # What stays has one text an id and one id a text, and each copy names the one that stays.
    stays = defaultdict(set)
    for doc_id, text_hash, source, origin in new:
        if (source, origin) not in found:
            stays[text_hash].add(doc_id)
    for doc_id, text_hash in committed:
        stays[text_hash].add(doc_id)
    assert all(len(ids) == 1 for ids in stays.values())
    assert all(row.winner in stays[row.text_hash] for row in found.values() if row.code == "DUPLICATE_TEXT")
    assert all(row.winner is None for row in found.values() if row.code == "CONFLICTING_ID")


def test_batches_of_any_size_keep_the_same_and_read_nothing_that_is_committed(
    tmp_path: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = tiny.documents(40, seed=5)
    texts = [row["text"] for row in documents]
    rows = documents + [{"doc_id": f"copy-{n}", "text": texts[n]} for n in range(9)]
    rows += [{"doc_id": documents[n]["doc_id"], "text": f"{texts[n]} and more"} for n in range(9, 15)]
    for part in range(7):
        tiny.write_jsonl(tmp_path / "input" / f"{part}.jsonl", rows[part::7])
    read: list[list[str]] = []
    append = Writer.append

    def noting(self: Writer, frame: DataFrame) -> None:
        read.append([file for file in frame.inputFiles() if "/tables/documents/" in file])
        append(self, frame)

    monkeypatch.setattr(Writer, "append", noting)
    columns = ("origin", "doc_id", "outcome", "code", "detail")
    whole = open_runner(tmp_path / "whole", "run.batch_bytes=auto", "quarantine.max_rate=1", source=tmp_path / "input")
    whole.run(["ingest"])
    assert len(read) == 1
    expected = rows_of(whole, "documents", columns)
    assert sum(row[3] == "DUPLICATE_TEXT" for row in expected) == 9 and sum(row[3] == "CONFLICTING_ID" for row in expected) == 6

    cut = open_runner(tmp_path / "cut", "run.batch_bytes=1", "quarantine.max_rate=1", source=tmp_path / "input")
    with monkeypatch.context() as patch:

        def fatal(self: Writer, frame: DataFrame) -> None:
            noting(self, frame)
            if len(read) == 4:
                raise KeyboardInterrupt

        patch.setattr(Writer, "append", fatal)
        with pytest.raises(KeyboardInterrupt):
            cut.run(["ingest"])
    open_runner(tmp_path / "cut", "run.batch_bytes=1", "quarantine.max_rate=1", source=tmp_path / "input").run(["ingest"])
    assert rows_of(cut, "documents", columns) == expected
    assert len(read) == 8 and read == [[]] * 8
    assert not any((tmp_path / "cut" / "units").rglob("*"))
    assert open_runner(tmp_path / "cut", "quarantine.max_rate=1", source=tmp_path / "input").run(["ingest"]).steps == []
