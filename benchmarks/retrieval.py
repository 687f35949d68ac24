"""The index by cells and the partitioned search in real Spark, over clustered random vectors: rates, growth, memory of a worker."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import timing
from benchmarks.common import ROOT, argument_parser, spark_for
from benchmarks.timing import record, seconds
from entropylong.config import load_config
from entropylong.core.context import StageContext
from entropylong.core.handles import IndexHandle
from entropylong.core.udf import Meter
from entropylong.models.cache import WorkerModel
from entropylong.pipeline.drivers.index import drive, recall
from entropylong.retrieval.grid import to_grid
from entropylong.retrieval.index import OpenIndex, node_copy
from entropylong.retrieval.partitioned import search_range
from entropylong.retrieval.stage import INDEX
from entropylong.storage.artifacts import Artifact, Registry
from entropylong.storage.store import Store
from entropylong.storage.workspace import Workspace

D, CLUSTER_SIZE, SPREAD = 384, 500, 0.9
TOP_K, NPROBE = 32, 32


def clustered(n: int, first: int, count: int, seed: int) -> np.ndarray:
    """Float16 `[count, D]`, L2-normalised, of a corpus of n: cluster centres and noise of `SPREAD` times their length.

    Clusters of very unequal size, as topics are.
    """
    fixed = np.random.default_rng(0)
    clusters = n // CLUSTER_SIZE
    centres = fixed.normal(size=(clusters, D)).astype(np.float32)
    weights = np.cumsum(fixed.lognormal(0.0, 1.0, clusters))
    rng = np.random.default_rng([seed, first])
    which = np.searchsorted(weights, weights[-1] * rng.random(count)).clip(max=clusters - 1)
    raw = centres[which] + SPREAD * rng.normal(size=(count, D)).astype(np.float32)
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def corpus(spark: SparkSession, n: int) -> DataFrame:
    """Rows as of `chunk_vectors`, one text a chunk; each made where it is asked for."""

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            numbers = batch["id"].to_numpy()
            vectors = [v.tobytes() for v in clustered(n, int(numbers[0]), len(numbers), seed=1)]
            yield pa.RecordBatch.from_arrays([batch["id"], pa.array(vectors, pa.binary())], names=["id", "vector"])

    rows = spark.range(0, n, 1, max(4, n // 100_000)).mapInArrow(make, "id BIGINT, vector BINARY")
    chunk_id = F.xxhash64(F.col("id").cast("string"), F.lit(0)).alias("chunk_id")
    return rows.select(chunk_id, F.xxhash64("id").alias("text_hash"), "vector")


class WorkerMemory:
    """The largest resident memory of any Python worker of this process's Spark, sampled."""

    def __enter__(self) -> WorkerMemory:
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    # An argument of its own: the JVM's command line names the module too, among its settings.
                    if b"entropylong.worker_daemon" in (place / "cmdline").read_bytes().split(b"\0"):
                        resident = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                        self.peak = max(self.peak, resident)
                except (OSError, IndexError):
                    continue  # it ended while it was looked at


def runner_over(spark: SparkSession, folder: Path, n: int) -> tuple[Any, Artifact]:
    """What drives an index, over tables of n chunks, without models."""
    place = folder / str(n)
    keys = [f"workspace={place}", f"node_cache={folder / 'node'}", f"retrieval.top_k={TOP_K}", f"retrieval.nprobe={NPROBE}",
            "retrieval.mode=broadcast", "run.vectors_per_unit=1000000", "retrieval.cells=" + str(cells_of(n))]  # fmt: skip
    config = load_config(ROOT / "conf" / "demo.yaml", keys)
    store = Store(spark, config.tables)
    tables = {"chunk_vectors": "benchmark-vectors"}
    for table, value in tables.items():
        if not store.exists(table):
            store.append(table, corpus(spark, n), value)
    nobody, meter, cores = cast(WorkerModel, None), Meter(spark.sparkContext), spark.sparkContext.defaultParallelism
    context = StageContext(config, spark, nobody, nobody, cores, meter, cast(Any, None), fingerprints=tables)
    artifact = Artifact("benchmark-index", "index", "index", {}, {}, {}, {t: store.version(t) for t in tables},
                        {"chunks": n, "cells": cells_of(n)})  # fmt: skip
    namespace = SimpleNamespace(
        registry=Registry(store), spark=spark, store=store, config=config, context=context, workspace=Workspace(str(place))
    )
    return namespace, artifact


def cells_of(n: int) -> int:
    """As `retrieval.cells: null` takes for a million and more; here for smaller ones too."""
    return 2 ** round(np.log2(2 * np.sqrt(n)))


def queries_of(runner: Any, n: int, count: int) -> DataFrame:
    """Rows of query_cells."""
    index = open_here(runner)
    grid = to_grid(clustered(n, 0, count, seed=2))
    cells = index.cells.nearest(grid.astype(np.float32), NPROBE)
    rows = pa.table({
        "root_id": [str(i // 64) for i in range(count)], "position": pa.array(range(count), pa.int32()),
        "vector": [g.tobytes() for g in grid], "own": pa.array([[i] for i in range(count)], pa.list_(pa.int64())),
        "cells": pa.array(cells.tolist(), pa.list_(pa.int32())),
    })  # fmt: skip
    return cast(DataFrame, runner.spark.createDataFrame(rows))


def open_here(runner: Any) -> OpenIndex:
    """The index in this process."""
    from entropylong.utils.hashing import file_sha256

    directory = runner.workspace.index("benchmark-index")
    handle = IndexHandle(str(directory), "benchmark-index", file_sha256(directory / "manifest.json"), runner.config.node_cache)
    return OpenIndex(node_copy(handle))


def partitioned(runner: Any, queries: DataFrame) -> tuple[float, list[tuple[int, list[int]]]]:
    """Seconds of a search of all cells, and what it found."""
    sizes = np.load(runner.workspace.index("benchmark-index") / "sizes.npy")
    vectors = runner.store.read_ok("index_cells", "benchmark-index")
    rows: list[Any] = []
    spent = seconds(lambda: rows.extend(search_range(runner.context, queries, vectors, 0, sizes).collect()))
    return spent, sorted((row.position, [hit.chunk_id for hit in row.hits]) for row in rows)


def time_size(spark: SparkSession, folder: Path, n: int, counts: Sequence[int]) -> None:
    """Build the index over n vectors, then search it with each number of queries in both ways."""
    cores = spark.sparkContext.defaultParallelism
    runner, artifact = runner_over(spark, folder, n)
    start = time.perf_counter()
    with WorkerMemory() as memory:
        drive(runner, INDEX, artifact, cast(Any, None))
    spent = time.perf_counter() - start
    index_recall = recall(runner.workspace.index("benchmark-index"), NPROBE)
    record("index_build", [spent], [], size=n, vectors_per_second_and_core=round(n / spent / cores), cells=cells_of(n),
           recall=round(index_recall, 4), worker_gib=round(memory.peak / 2**30, 3))  # fmt: skip
    whole: list[Any] = []
    for count in counts:
        queries = queries_of(runner, n, count).persist()
        queries.count()
        with WorkerMemory() as memory:
            spent, by_cells = partitioned(runner, queries)
        grid, index = to_grid(clustered(n, 0, count, seed=2)), open_here(runner)
        alone = seconds(lambda grid=grid, index=index, count=count: whole.append(
            index.search(grid, np.arange(count), [[i] for i in range(count)], TOP_K, NPROBE)))  # fmt: skip
        same = [ids for _, ids in by_cells] == whole[-1].ids.tolist()
        record("search_partitioned", [spent], [], size=n, queries=count, same_hits=same, worker_gib=round(memory.peak / 2**30, 3))
        record("search_broadcast", [alone], [], size=n, queries=count)
    shutil.rmtree(folder / str(n) / "tables", ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Three sizes of the corpus, three numbers of queries; the smallest is one of each."""
    parser = argument_parser(__doc__)
    parser.add_argument("--vectors", type=int)
    parser.add_argument("--queries", type=int)
    options = parser.parse_args(arguments)
    vectors, queries = options.vectors or (2000 if options.small else 2_000_000), options.queries or (64 if options.small else 8192)
    folder = timing.RESULTS / "retrieval"
    shutil.rmtree(folder, ignore_errors=True)
    with spark_for(load_config(ROOT / "conf" / "demo.yaml", ["spark.conf.spark.sql.shuffle.partitions=8"])) as spark:
        for n in [vectors] if options.small else [vectors // 4, vectors // 2, vectors]:
            several = n == vectors and not options.small
            time_size(spark, folder, n, (queries // 2, queries, 2 * queries) if several else (queries,))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
