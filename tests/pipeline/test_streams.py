"""Streams: where a checkpoint goes on, no committed key is read; where it may not, nothing is doubled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.entropy.stage import ANCHOR
from entropylong.errors import TableError
from entropylong.maintenance.tables import LEAST_HOURS
from entropylong.storage.writer import Writer
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


class Anchors:
    """The stage `anchors` over a copy of the finished workspace, and rows that are put in front of it."""

    def __init__(self, workspace: Path, open_runner: OpenRunner) -> None:
        self.workspace, self._open = workspace, open_runner
        state = open_runner(workspace).state
        self.store = state.store
        self.scored, self.anchors = (state.fingerprint(table) or "-" for table in ("scored_documents", "anchors"))
        (self.checkpoint,) = (workspace / "checkpoints" / "anchors" / self.anchors).iterdir()

    def add(self, *names: str) -> None:
        """Roots to find anchors of."""
        for name in names:
            rows = self.store.read_ok("scored_documents", self.scored).where("root_id NOT LIKE 'new-%'").limit(1)
            self.store.append("scored_documents", rows.withColumn("root_id", F.lit(name)), self.scored)

    def roots(self, table: str = "anchors") -> list[str]:
        """Of its output (or its input), with doubles."""
        return [root for (root,) in rows_of(self._open(self.workspace), table, ["root_id"])]

    def run(self) -> int:
        """Keys that it did."""
        return sum(step.keys for step in self._open(self.workspace).run(["anchors"]).steps)

    def is_whole(self) -> bool:
        """Whether each root of its input stands in its output, once."""
        return self.roots() == self.roots("scored_documents") and len(set(self.roots())) == len(self.roots())


@pytest.fixture
def stage(copied: Path, open_runner: OpenRunner) -> Anchors:
    return Anchors(copied, open_runner)


def test_keys_are_read_only_where_a_checkpoint_may_not_go_on(stage: Anchors, compared: list[str]) -> None:
    """One after the other: rows added, rows that another run has done already, an input that was taken away and added again."""
    store = stage.store
    stage.add("new-1")
    store.compact("scored_documents")
    store.vacuum("scored_documents", LEAST_HOURS)
    assert (stage.run(), compared) == (1, []) and stage.is_whole()

    row = store.read_ok("anchors", stage.anchors).limit(1).withColumn("root_id", F.lit("new-2"))
    store.writer("anchors", stage.anchors, "anchors").append(row)
    stage.add("new-2", "new-3")
    assert stage.run() == 1 and compared and stage.is_whole()

    compared.clear()
    rows = store.spark.createDataFrame(
        store.read("scored_documents", stage.scored).collect(), store.read_all("scored_documents").schema
    )
    store.drop("scored_documents", stage.scored)
    store.append("scored_documents", rows, stage.scored)
    stage.add("new-4")
    assert stage.run() == 1 and compared and stage.is_whole()
    # And from there it goes on.
    compared.clear()
    stage.add("new-5")
    assert (stage.run(), compared) == (1, []) and stage.is_whole()


def test_a_pass_that_did_not_end_well_is_not_gone_on_with(
    stage: Anchors, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last batch is committed and not noted; a kill over a table that was made anew; a checkpoint cut short by hand."""
    done = stage.checkpoint / "commits"
    newest = max(int(file.name) for file in done.iterdir() if file.name.isdigit())
    (done / f"{newest + 1}").mkdir()  # where Spark would note the batch
    stage.add("new-1")
    assert stage.run() == 1 and stage.is_whole()
    stage.add("new-2")
    assert stage.run() == 1 and compared and stage.is_whole()

    shutil.rmtree(stage.workspace / "tables" / "anchors")
    stage.add("new-3")
    append = Writer.append

    def fatal(self: Writer, frame: DataFrame) -> None:
        append(self, frame)
        raise TableError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "append", fatal)
        with pytest.raises(TableError, match="killed"):
            stage.run()
    assert stage.roots() == ["new-3"]
    stage.run()
    assert stage.is_whole()

    (checkpoint,) = stage.checkpoint.parent.iterdir()
    for kind in ("offsets", "commits"):
        for file in (checkpoint / kind).iterdir():
            file.unlink()
    compared.clear()
    stage.add("new-4")
    assert stage.run() == 1 and compared and stage.is_whole()
