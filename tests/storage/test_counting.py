"""What appends say of themselves, against a count of the table: the same, whoever else writes and whatever is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.storage import counting
from entropylong.storage.codes import CODES, Outcomes
from entropylong.storage.counting import AppendCount
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import ERROR, GAINS, OK, SKIPPED
from entropylong.storage.store import Store
from tests.conftest import OpenRunner
from tests.storage.test_store import FP, gain_row, other_store

pytestmark = pytest.mark.runtime

OTHER = "fedcba9876543210"
# Of every code one row, and one more of the first.
REFUSED = [*CODES, next(iter(CODES))]


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "tables"))


def append(store: Store, fingerprint: str = FP, ok: int = 2, codes: tuple[str, ...] = ()) -> None:
    rows = [gain_row(pair_id=number) for number in range(ok)]
    for number, code in enumerate(codes):
        outcome = SKIPPED if CODES[code].skipped else ERROR
        rows.append(gain_row(pair_id=-number - 1, readings=None, outcome=outcome, code=code, detail="d"))
    store.append("gains", local_frame(store.spark, rows, GAINS.struct), fingerprint)


def reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that are read from now on."""
    seen: list[str] = []
    read = store.read_all
    monkeypatch.setattr(store, "read_all", lambda table, *rest: seen.append(table) or read(table, *rest))
    return seen


def counted(store: Store) -> Outcomes:
    return other_store(store).outcomes("gains", FP)


def test_appends_are_known_without_a_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.outcomes("gains", FP) == store.outcomes("gains", None) == {}
    store.create("gains")
    seen = reads(store, monkeypatch)
    append(store, codes=tuple(REFUSED))
    append(store, ok=3, codes=("BUDGET_FULL",))
    known = store.outcomes("gains", FP)
    assert not seen and known == counted(store)
    assert known[(OK, None)] == 5 and known[(SKIPPED, "BUDGET_FULL")] == 2 and len(known) == 1 + len(CODES)


def test_what_was_there_is_counted_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    append(store)
    later = other_store(store)
    seen = reads(later, monkeypatch)
    append(later)  # nothing was asked yet
    assert later.outcomes("gains", FP) == {(OK, None): 4} and seen == ["gains"]
    append(later, OTHER, ok=1)
    append(later)
    assert later.outcomes("gains", FP) == {(OK, None): 6} and seen == ["gains"]
    assert later.outcomes("gains", OTHER) == {(OK, None): 1} and seen == ["gains", "gains"]


def test_rows_of_others_and_rows_that_are_gone_are_counted_again(store: Store) -> None:
    append(store)
    append(other_store(store), ok=5)
    append(store)
    assert store.outcomes("gains", FP) == counted(store) == {(OK, None): 9}
    append(store, codes=("MODEL_FAILED",))
    assert store.drop_errors("gains", FP) == 1
    append(store)
    assert store.outcomes("gains", FP) == counted(store) == {(OK, None): 13}
    store.drop("gains", FP)
    assert store.outcomes("gains", FP) == counted(store) == {}


def test_where_executors_may_be_lost_delta_has_to_say_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_may_lose_executors", True, raising=False)
    store.create("gains")
    seen = reads(store, monkeypatch)
    append(store, codes=("MODEL_FAILED", "BUDGET_FULL"))
    assert store.outcomes("gains", FP)[(OK, None)] == 2 and not seen
    twice = AppendCount.outcomes
    monkeypatch.setattr(AppendCount, "outcomes", lambda count: {key: 2 * n for key, n in (twice(count) or {}).items()})
    append(store)
    assert store.outcomes("gains", FP) == counted(store) and seen == ["gains"]


def _unheard(count: AppendCount, rows: DataFrame) -> DataFrame:
    """Observed, and not what is written."""
    rows.observe(count._observation, F.count(F.lit(1)).alias("counts"))
    return rows


@pytest.mark.parametrize("why", ["the listeners dropped it", "a code that is not known", "an outcome that is not the code's"])
def test_what_is_not_known_for_certain_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    store.create("gains")
    seen = reads(store, monkeypatch)
    row = gain_row(readings=None, outcome=ERROR, code="MODEL_FAILED", detail="d")
    if why == "the listeners dropped it":
        monkeypatch.setattr(AppendCount, "watch", _unheard)
        monkeypatch.setattr(counting, "_PATIENCE", 0.01)
    elif why == "a code that is not known":
        row["code"] = "OF_ANOTHER_VERSION"
    else:
        row["outcome"] = SKIPPED
    store.append("gains", local_frame(store.spark, [row], GAINS.struct), FP)
    assert store.outcomes("gains", FP) == {(row["outcome"], row["code"]): 1} and seen == ["gains"]


def test_a_run_knows_what_a_count_finds(open_runner: OpenRunner, tmp_path: Path) -> None:
    runner = open_runner(tmp_path / "w", "run.batch_bytes=1", "run.roots_per_unit=6", "roots.min_tokens=150")
    runner.run()
    known = dict(runner.state.outcomes)
    runner.state.forget()
    again = {table: runner.state.store.outcomes(table, runner.state.fingerprint(table)) for table in known}
    assert known == again and any(code for outcomes in known.values() for _, code in outcomes)
