"""Build an index: train the cells, assign every chunk, measure the recall, write the files. Resumed by what is there."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.stage import WholeStage
from entropylong.errors import IndexFileError, NothingToDoError
from entropylong.pipeline.drivers.aside import aside, of_part
from entropylong.pipeline.drivers.partitioned_search import check_recall, recall
from entropylong.pipeline.state import PipelineState
from entropylong.retrieval import build
from entropylong.retrieval.cells import train_cells
from entropylong.retrieval.index import INDEX_FILES, seal, write_vectors
from entropylong.retrieval.sizing import BROADCAST, POOL, SAMPLE_A_CELL, choose_mode
from entropylong.spark.resources import executor_memory
from entropylong.spark.session import settings_of
from entropylong.storage.array_files import read_array, write_array
from entropylong.storage.artifacts import Artifact
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress

logger = logging.getLogger(__name__)


def drive(state: PipelineState, stage: WholeStage, artifact: Artifact, progress: StepProgress) -> None:
    """Train the cells, assign every chunk to its own, measure the recall, write the files. Each part is kept once it is done."""
    if state.registry.is_complete(artifact.fingerprint) and stage.is_present(state, artifact.fingerprint):
        return  # a refresh of a corpus that has not changed
    vectors = stage.reads[0]
    rows = state.store.read_ok(vectors, state.context.fingerprints[vectors], artifact.input_versions[vectors])
    rows = rows.select("chunk_id", "text_hash", "vector")
    n, cells = int(artifact.pinned["chunks"]), int(artifact.pinned["cells"])
    directory = state.workspace.index(artifact.fingerprint)
    directory.mkdir(parents=True, exist_ok=True)
    _check_collisions(rows, n)
    pool = build.sampled(rows, n, POOL, "text_hash")
    write_array(directory / "pool_ids.npy", pool["chunk_id"].to_numpy())
    write_array(directory / "pool_hashes.npy", pool["text_hash"].to_numpy())
    writer = state.store.writer("index_cells", artifact.fingerprint, stage.name)
    is_trained_here = not (directory / "centroids.npy").is_file()
    if is_trained_here:
        # Once: trained again they could differ, so what was assigned by lost ones goes too. (Of one cell there is no other.)
        if cells > 1:
            state.store.drop("index_cells", artifact.fingerprint)
        sample = build.sampled(rows, n, max(SAMPLE_A_CELL * cells, 256), "vector")
        write_array(directory / "centroids.npy", train_cells(build.grid_of(sample["vector"]), cells, state.config.seed))
    centroids = read_array(directory / "centroids.npy", INDEX_FILES, np.int16, cells, None)
    d = int(centroids.shape[1])
    mode, why = choose_mode(state.config.retrieval.mode, n, d, executor_memory(settings_of(state.spark)))
    kind = "exact, one cell" if cells == 1 else f"{cells:,} cells"
    logger.info(f"index: {n:,} vectors of {d} dimensions, {kind}; {why}")
    # By new centroids all is assigned: what another run has assigned meanwhile is by its own, and refuses the first append here.
    done = None if is_trained_here and cells > 1 else state.store.read("index_cells", artifact.fingerprint).select("chunk_id")
    _assign(state, writer, rows, n, np.asarray(centroids), done)
    stored = state.store.read_ok("index_cells", artifact.fingerprint)
    sizes = np.zeros(cells, np.int64)
    for row in stored.groupBy("cell_id").count().collect():
        sizes[row.cell_id] = row["count"]
    if int(sizes.sum()) != n:
        raise IndexFileError(f"table index_cells: {sizes.sum()} rows of {n}; run the same command again")
    write_array(directory / "sizes.npy", sizes)
    if not (directory / "probes_needed.npy").is_file():
        queries = build.sampled(rows, n, build.RECALL_QUERIES, "vector", "text_hash")
        needed = build.probes_needed(state.context, stored, np.asarray(centroids), queries, state.config.retrieval.top_k)
        write_array(directory / "probes_needed.npy", needed)
    if mode == BROADCAST:
        write_vectors(directory, n, d, cells, build.in_parts(stored, sizes))
    # Of an index without cells there is nothing to be measured.
    seal(directory, {"mode": mode, "n": n, "d": d, "cells": cells})
    if cells > 1:
        share = recall(directory, state.config.retrieval.nprobe)
        logger.info(f"index: recall@{state.config.retrieval.top_k} {share:.3f} at nprobe {state.config.retrieval.nprobe}")
    check_recall(state, artifact.fingerprint)


def _check_collisions(rows: DataFrame, n: int) -> None:
    if (distinct := rows.agg(F.countDistinct("chunk_id")).collect()[0][0]) != n:
        raise NothingToDoError(
            f"index: {n - distinct} chunks share a chunk_id with another (a hash collision); change a doc_id of each such pair"
        )


def _assign(state: PipelineState, writer: Writer, rows: DataFrame, n: int, centroids: Any, done: DataFrame | None) -> None:
    units = max(1, -(-n // state.config.run.vectors_per_unit))
    unit_of = F.pmod(F.col("chunk_id"), F.lit(units)).cast("int")
    todo = rows if done is None else rows.join(done, "chunk_id", how="left_anti")
    if units == 1:
        if size := todo.count():
            writer.append(build.assign(state.context.sized(size), todo, centroids))
        return
    # Every core has one file of each unit to read.
    placed = todo.withColumn("unit", unit_of).repartition(units * state.context.cores, "unit", "chunk_id")
    with aside(state, writer.table) as folder:
        parts = folder.cut("vectors", placed, "unit")
        for unit, size in sorted((row[0], row[1]) for row in parts.groupBy("unit").count().collect()):
            writer.append(build.assign(state.context.sized(size), of_part(parts, "unit", unit), centroids))
