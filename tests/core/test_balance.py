"""Tasks of equal cost: the plan against brute force, and the places against Spark itself."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from entropylong.core import balance
from entropylong.core.balance import lpt, partition_salts, spark_hash, spread, task_count
from entropylong.core.udf import map_rows
from entropylong.verification import reuse
from tests.conftest import OpenRunner, rows_of


@settings(deadline=None)
@given(costs=st.lists(st.floats(0.1, 100), min_size=1, max_size=7), tasks=st.integers(1, 3))
def test_lpt_is_within_four_thirds_of_the_best(costs: list[float], tasks: int) -> None:
    def slowest(placed: list[int] | tuple[int, ...]) -> float:
        return max(sum(c for c, p in zip(costs, placed, strict=True) if p == task) for task in range(tasks))

    best = min(slowest(placed) for placed in product(range(tasks), repeat=len(costs)))
    assert slowest(lpt(costs, tasks)) <= best * 4 / 3 + 1e-9


def test_task_count() -> None:
    assert task_count(1000, 500, cores=2, task_tokens=10**7) == 8, "four waves over the cores at least"
    assert task_count(1000, 3, cores=2, task_tokens=10**7) == 3, "no empty task"
    assert task_count(6.4e8, 10**5, cores=8, task_tokens=10**7) == 64, "none longer than task_tokens"
    assert task_count(0, 0, cores=2, task_tokens=10) == 1


def test_hash_and_places_are_sparks(spark: SparkSession) -> None:
    numbers = [0, 1, -1, 7, 2**31, -(2**40), 2**63 - 1]
    rows = spark.createDataFrame([(n,) for n in numbers], "n BIGINT").select("n", F.hash("n").alias("h")).collect()
    assert [row.h for row in rows] == [spark_hash(row.n) for row in rows]
    salts = partition_salts(7)
    frame = spark.createDataFrame([(s,) for s in salts], "s BIGINT").repartition(7, "s")
    places = {row.s: row.p for row in frame.select("s", F.spark_partition_id().alias("p")).collect()}
    assert [places[salt] for salt in salts] == list(range(7))


def test_spread_loses_nothing_and_balances(spark: SparkSession, open_runner: OpenRunner, tmp_path: Path) -> None:
    ctx = open_runner(tmp_path / "workspace").state.context
    rows = [(f"k{i % 40}", 1 + (i * 7919) % 1000) for i in range(200)]
    frame = spark.createDataFrame(rows, "k STRING, c INT")
    placed = spread(ctx, frame, ["k"], F.col("c").cast("double")).select("k", "c", F.spark_partition_id().alias("p")).collect()
    assert sorted((r.k, r.c) for r in placed) == sorted(rows)
    loads: dict[int, int] = {}
    for row in placed:
        loads[row.p] = loads.get(row.p, 0) + row.c
    assert len(loads) == 8 and max(loads.values()) < 1.05 * sum(loads.values()) / 8
    assert all(len({r.p for r in placed if r.k == key}) == 1 for key, _ in rows), "a key is in one place"
    assert spread(ctx, frame.where("c < 0"), ["k"], F.col("c").cast("double")).count() == 0


def test_the_driver_takes_as_much_for_a_million_keys(
    spark: SparkSession, open_runner: OpenRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = open_runner(tmp_path / "workspace").state.context
    sizes: list[int] = []
    monkeypatch.setattr(balance, "lpt", lambda costs, tasks: sizes.append(len(costs)) or lpt(costs, tasks))
    frame = spark.range(1_000_000).select("id", (1 + F.pmod(F.col("id") * 7919, F.lit(1000))).alias("c"))
    placed = spread(ctx, frame, ["id"], F.col("c").cast("double"))
    loads = [row.load for row in placed.groupBy(F.spark_partition_id()).agg(F.sum("c").alias("load")).collect()]
    assert sizes == [balance.GROUPS] and sum(loads) == frame.agg(F.sum("c")).collect()[0][0]
    assert len(loads) >= 8 and max(loads) < 1.001 * sum(loads) / len(loads)


def test_workers_use_the_cores_of_their_task(spark: SparkSession, open_runner: OpenRunner, tmp_path: Path) -> None:
    """One thread a task at spark.task.cpus 1, in torch, in OpenMP's libraries and in FAISS: two tasks must not share cores."""
    from entropylong.models.cache import load
    from entropylong.storage.schemas import CHUNKS

    worker = open_runner(tmp_path / "workspace").state.context.causal_lm

    def threads(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        import os

        import faiss

        load(worker)
        return [{"text": f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']} {faiss.omp_get_max_threads()}"}]

    frame = map_rows(spark.range(1), CHUNKS, threads)
    assert [row.text for row in frame.collect()] == ["1 1 1"]


def test_auto_dtype_is_measured_by_a_run_and_pinned(tmp_path: Path, open_runner: OpenRunner, messages: list[str]) -> None:
    """A look decides nothing; the first run measures on an executor; later ones, whatever they would measure, keep to it."""
    idle_runner = open_runner(tmp_path / "workspace", "model.dtype=auto")
    assert idle_runner.state.fingerprint("scored_documents") is None
    runner = open_runner(tmp_path / "workspace", "model.dtype=auto")
    runner.run(["ingest", "score"])
    dtype = runner.state.context.causal_lm.dtype
    assert dtype in ("float32", "bfloat16") and f"model.dtype: auto is {dtype} in this workspace" in messages
    named = open_runner(tmp_path / "workspace", f"model.dtype={dtype}")
    assert named.state.fingerprint("scored_documents") == runner.state.fingerprint("scored_documents"), (
        "the result is hashed, not the word"
    )
    other = "bfloat16" if dtype == "float32" else "float32"
    for memo in (Path(runner.state.context.causal_lm.node_cache) / "dtype").iterdir():
        memo.write_text(other)
    again = open_runner(tmp_path / "workspace", "model.dtype=auto")
    assert again.run(["ingest", "score"]).steps == [] and again.state.context.causal_lm.dtype == dtype


def test_shared_chunks_are_measured_the_same_in_spark(
    copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """The stage cut by chunk gives the readings of the stage cut by pair."""
    plain = {
        (r[0], p.position): p.entropy_with for r in rows_of(open_runner(copied), "gains", ("pair_id", "readings")) for p in r[1]
    }
    shutil.rmtree(copied / "tables" / "gains")
    monkeypatch.setattr(reuse, "LEAST_SAVING", -1.0)
    runner = open_runner(copied)
    runner.run(["verify"])
    assert any("keys and values of a chunk are shared" in line for line in messages)
    shared = [(r[0], p) for r in rows_of(runner, "gains", ("pair_id", "readings")) for p in r[1]]
    assert sorted((pair, p.position) for pair, p in shared) == sorted(plain)
    assert max(abs(p.entropy_with - plain[pair, p.position]) for pair, p in shared) < 1e-3
