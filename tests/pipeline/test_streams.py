"""Streams: where a checkpoint goes on, no committed key is read; where it may not, nothing is doubled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.entropy.stage import ANCHOR
from tests.conftest import OpenRunner, rows_of


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for each batch that is compared with the output by key from now on."""
    batches: list[str] = []
    subtract = type(ANCHOR).subtract

    def spy(self: Any, *rest: Any) -> DataFrame:
        batches.append("batch")
        return subtract(self, *rest)

    monkeypatch.setattr(type(ANCHOR), "subtract", spy)
    return batches


def test_keys_are_read_only_where_a_checkpoint_may_not_go_on(copied: Path, open_runner: OpenRunner, compared: list[str]) -> None:
    """One after the other: rows added, rows that another run has done already, an input that was taken away and added again."""
    state = open_runner(copied).state
    store, (scored, anchors) = state.store, (state.fingerprint(table) or "-" for table in ("scored_documents", "anchors"))

    def roots(table: str = "anchors") -> list[str]:
        return [root for (root,) in rows_of(open_runner(copied), table, ["root_id"])]

    def add(table: str, value: str, *names: str) -> None:
        for name in names:
            store.append(table, store.read_ok(table, value).limit(1).withColumn("root_id", F.lit(name)), value)

    before = roots()
    add("scored_documents", scored, "new-1")
    (step,) = open_runner(copied).run(["anchors"]).steps
    assert (step.keys, compared) == (1, []) and roots() == sorted([*before, "new-1"])

    row = store.read_ok("anchors", anchors).limit(1).withColumn("root_id", F.lit("new-2"))
    store.writer("anchors", anchors, f"anchors-{anchors}").append(row)
    add("scored_documents", scored, "new-2", "new-3")
    (step,) = open_runner(copied).run(["anchors"]).steps
    assert step.keys == 1 and compared and roots() == sorted([*before, "new-1", "new-2", "new-3"])

    compared.clear()
    rows = store.spark.createDataFrame(store.read("scored_documents", scored).collect(), store.read_all("scored_documents").schema)
    store.drop("scored_documents", scored)
    store.append("scored_documents", rows, scored)
    add("scored_documents", scored, "new-4")
    (step,) = open_runner(copied).run(["anchors"]).steps
    assert step.keys == 1 and compared and roots() == roots("scored_documents")
    assert len(set(roots())) == len(roots()) == len(before) + 4
    # And from there it goes on.
    compared.clear()
    add("scored_documents", scored, "new-5")
    assert open_runner(copied).run(["anchors"]).steps and not compared and len(roots()) == len(before) + 5
