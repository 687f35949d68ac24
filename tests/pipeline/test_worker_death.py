"""Poison: a row that raises, a sequence that the model fails on, a row that kills its worker. Each costs itself alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from delta.tables import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.core.udf import map_rows
from entropylong.corpus.stage import CHUNK
from entropylong.entropy.engine import entropy_at
from entropylong.entropy.scoring import Profile, Refusal, score_texts
from entropylong.errors import ModelError, UsageError
from entropylong.maintenance.quarantine import quarantine_rows, retry_rows
from entropylong.models.causal_lm import CausalLM
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import CHUNKS, OK, struct_of
from entropylong.utils.isolation import isolated
from tests.conftest import OpenRunner, rows_of


@given(n=st.integers(1, 40), bad=st.sets(st.integers(0, 39)))
def test_only_the_items_that_fail_are_refused(n: int, bad: set[int]) -> None:
    poison = {i for i in bad if i < n}

    def run(items: Sequence[int]) -> list[tuple[int, str]]:
        if any(i in poison for i in items):
            raise ValueError(f"cannot work on {min(poison & set(items))}")
        return [(i, "done") for i in items]

    if len(poison) == n > 1:
        with pytest.raises(ValueError, match="cannot work"):
            isolated(range(n), run, lambda i, why: [(i, why)])
        return
    results = dict(isolated(range(n), run, lambda i, why: [(i, why)]))
    assert {i for i, result in results.items() if result == "done"} == set(range(n)) - poison
    assert all(results[i] == f"ValueError: cannot work on {i}" for i in poison)


class Poisoned(CausalLM):
    """A real tiny model that fails where a token stands among the ids."""

    poison = 399

    def hidden(self, ids: torch.Tensor, after: Any = None) -> torch.Tensor:
        if (ids == self.poison).any():
            raise IndexError("index out of range in self")
        return super().hidden(ids, after)


def test_a_sequence_that_the_model_fails_on_is_alone(tiny_lm: Path) -> None:
    sound, model = CausalLM(tiny_lm, document_start_id=0), Poisoned(tiny_lm, document_start_id=0)
    model.poison = 7
    rng = np.random.default_rng(0)
    ids = [rng.integers(10, 300, 20).astype(np.int32) for _ in range(9)]
    where = [np.arange(1, 20, dtype=np.int32)] * 9
    clean = entropy_at(sound, ids, where)
    ids[4][3] = 7
    results = entropy_at(model, ids, where)
    assert "IndexError: index out of range" in results[4].failure and np.isnan(results[4].entropy).all()
    for number in {*range(9)} - {4}:
        assert not results[number].failure
        np.testing.assert_allclose(results[number].entropy, clean[number].entropy, atol=1e-5)


def test_a_model_that_fails_on_everything_is_no_fault_of_a_row(tiny_lm: Path) -> None:
    model = Poisoned(tiny_lm, document_start_id=0)
    model.poison = 0
    with pytest.raises(ModelError, match="fails on any input"):
        entropy_at(model, [np.zeros(5, np.int32)], [np.ones(1, np.int32)])


def test_a_failing_root_is_an_error_row(tiny_lm: Path) -> None:
    model = Poisoned(tiny_lm, document_start_id=0)
    text = "The function returns the filter."
    model.poison = model.encode("9")[0]
    rule: dict[str, Any] = {"min_tokens": 1, "max_tokens": 99, "long": "truncate", "batch_tokens": 512}
    results = dict(score_texts(model, [("a", text), ("b", text + "9!"), ("c", text)], **rule))
    assert isinstance(results["a"], Profile) and isinstance(results["c"], Profile)
    refusal = results["b"]
    assert isinstance(refusal, Refusal) and (refusal.outcome, refusal.code) == ("error", "MODEL_FAILED")


def _documents(spark: SparkSession) -> DataFrame:
    rows = [{"doc_id": f"d{i}", "text": f"text {i}"} for i in range(12)]
    return local_frame(spark, rows, struct_of("doc_id STRING, text STRING"))


def test_a_row_that_raises_in_a_worker(spark: SparkSession) -> None:
    def run(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["doc_id"] == "d5":
                raise RuntimeError("cannot be cut")
            yield {"doc_id": row["doc_id"], "chunk_id": 1, "ordinal": 0, "text": row["text"], "text_hash": 1, "outcome": OK}

    chunks = {row.doc_id: row for row in map_rows(_documents(spark), CHUNKS, run).collect()}
    assert len(chunks) == 12 and {i for i, row in chunks.items() if row.outcome != OK} == {"d5"}
    assert (chunks["d5"].code, chunks["d5"].detail) == ("ROW_FAILED", "RuntimeError: cannot be cut")


def test_a_row_that_kills_its_worker(copied: Path, open_runner: OpenRunner, messages: list[str]) -> None:
    """The worker is gone without a word, each time: halves of the unit find the row, all others have their rows once."""

    def run(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["doc_id"] == "d5":
                os.kill(os.getpid(), signal.SIGKILL)
            yield {"doc_id": row["doc_id"], "chunk_id": 1, "ordinal": 0, "text": row["text"], "text_hash": 1, "outcome": OK}

    runner = open_runner(copied)
    documents = _documents(runner.state.spark)
    writer = runner.state.store.writer("chunks", "poisoned1", "unit")
    append_or_isolate(runner.state, CHUNK, writer, documents, lambda part: map_rows(part, CHUNKS, run))
    rows = runner.state.store.read("chunks", "poisoned1").select("doc_id", "outcome", "code").collect()
    assert sorted(row.doc_id for row in rows) == sorted(f"d{i}" for i in range(12))
    assert [(row.doc_id, row.code) for row in rows if row.outcome != OK] == [("d5", "WORKER_DIED")]
    assert (
        messages[0].startswith("chunk: a Python worker died")
        and messages[1] == "chunk: 1 row(s) refused as WORKER_DIED, all others done"
    )


def test_refused_rows_can_be_tried_again(copied: Path, finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    table = DeltaTable.forPath(runner.state.spark, runner.state.store.place("scored_documents"))
    lost = {name: F.lit(None) for name in ("input_ids", "n_tokens", "entropy", "nll")}
    reason = {"outcome": F.lit("error"), "code": F.lit("MODEL_FAILED"), "detail": F.lit("of a bad day")}
    table.update(F.col("root_id").isin("doc-0003", "doc-0007"), {**lost, **reason})
    runner = open_runner(copied)
    assert [row["code"] for row in quarantine_rows(runner.state, 10)] == ["MODEL_FAILED"] * 2
    assert retry_rows(runner.state, ["anchors"]) == {} and retry_rows(runner.state, ["score"]) == {"score": 2}
    assert quarantine_rows(runner.state, 10) == []
    again = open_runner(copied)
    done = again.run(["ingest", "chunk", "embed", "index", "score", "anchors"])
    assert (done.steps[0].step.name, done.steps[0].keys) == ("score", 2)
    for name, columns in (("scored_documents", ["root_id", "input_ids", "outcome"]), ("anchors", ["root_id", "anchors"])):
        assert rows_of(again, name, columns) == rows_of(open_runner(finished), name, columns)
    with pytest.raises(UsageError, match="ingest: its errors are of the input"):
        retry_rows(again.state, ["ingest"])
