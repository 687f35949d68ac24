"""The hook of the worker daemon: all rows that stages write pass the one that its environment names, else none."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from entropylong.core.udf import arrow_table, install_hook, record_batches
from entropylong.worker_daemon import HOOK, install_named_hook

SCHEMA = pa.schema([("number", pa.int32())])
ROWS = [{"number": number} for number in range(3)]


def first_row(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.slice(0, 1) for batch in batches)


@pytest.fixture(autouse=True)
def none_stays() -> Iterator[None]:
    yield
    install_hook(None)


@pytest.mark.parametrize(("named", "count"), [("tests.core.test_hook:first_row", 1), ("", 3)])
def test_rows_pass_the_hook_that_is_named(named: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, named)
    install_named_hook()
    assert sum(batch.num_rows for batch in record_batches(ROWS, SCHEMA)) == count
    assert arrow_table([pa.RecordBatch.from_pylist(ROWS, SCHEMA)], SCHEMA).num_rows == count


def test_a_table_of_no_batches_has_its_columns() -> None:
    assert arrow_table([], SCHEMA).schema == SCHEMA


def test_a_name_that_is_not_there_ends_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, "tests.core.test_hook:nothing")
    with pytest.raises(AttributeError, match="nothing"):
        install_named_hook()
