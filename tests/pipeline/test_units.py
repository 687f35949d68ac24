"""Units: what they read is joined once a run and cut, so no unit reads a table; however it is cut, the rows are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame

from entropylong.pipeline.drivers import units
from entropylong.storage.writer import Writer
from tests.conftest import OpenRunner, rows_of

UNIT_TABLES = {
    "query_vectors": ("root_id", "position"),
    "candidates": ("root_id", "position", "hits"),
    "pairs": ("pair_id", "root_id", "chunk_id", "kind", "anchors", "outcome", "code"),
    "gains": ("pair_id", "root_id", "chunk_id", "n_context_tokens", "outcome"),
}


def test_many_units_give_the_rows_of_one_and_read_no_table(
    copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {table: rows_of(open_runner(copied), table, columns) for table, columns in UNIT_TABLES.items()}
    for table in UNIT_TABLES:
        shutil.rmtree(copied / "tables" / table)
    commits: dict[str, list[set[str]]] = {table: [] for table in UNIT_TABLES}
    append = units.append_or_isolate

    def noting(state: Any, stage: Any, writer: Writer, rows: DataFrame, build: Callable[[DataFrame], DataFrame]) -> None:
        if writer.table in commits:
            files = build(rows).inputFiles()
            commits[writer.table].append({"units" if f"{copied}/units/" in file else file for file in files})
        append(state, stage, writer, rows, build)

    monkeypatch.setattr(units, "append_or_isolate", noting)
    (copied / "units" / "pairs").mkdir(parents=True)
    (copied / "units" / "pairs" / "of a run that was killed").touch()
    runner = open_runner(copied, "run.roots_per_unit=3")
    runner.run(["search", "pairs", "verify"])
    assert all(len(read) >= 3 and set().union(*read) == {"units"} for read in commits.values()), commits
    assert not any((copied / "units").rglob("*"))
    assert {table: rows_of(runner, table, columns) for table, columns in UNIT_TABLES.items()} == expected
