"""How the runner builds an index and drives a partitioned search: unit by unit, each committed once, resumed by what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F

from entropylong.core.stage import Stage
from entropylong.errors import IndexFileError, NothingToDo, RecallTooLow
from entropylong.retrieval import build
from entropylong.retrieval.cells import train_cells
from entropylong.retrieval.index import seal, write_vectors
from entropylong.retrieval.partitioned import by_ranges, search_range
from entropylong.retrieval.scoring import Ints
from entropylong.retrieval.sizing import BROADCAST, PARTITIONED, POOL, SAMPLE_A_CELL, cell_count, choose_mode
from entropylong.retrieval.stage import MERGE, ROUTE
from entropylong.spark.resources import executor_memory
from entropylong.spark.session import settings_of
from entropylong.storage.array_files import MANIFEST, read_array, read_manifest, write_array
from entropylong.storage.artifacts import Artifact, fingerprint
from entropylong.utils.progress import StepProgress

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from entropylong.pipeline.runner import Runner


def new_index_artifact(step: Stage, runner: Runner) -> Artifact:
    """A generation of an index: the chunks and vectors that are committed now are its snapshot."""
    frames = runner.frames(step)
    total = F.sum(F.xxhash64("chunk_id").cast("decimal(38,0)"))
    count, content = build.snapshot(frames["chunks"], frames["chunk_vectors"]).agg(F.count(F.lit(1)), total).collect()[0]
    if not count:
        raise NothingToDo("index: there is no chunk to retrieve from; give a source with role corpus or both")
    versions = {table: runner.store.version(table) for table in step.reads}
    config = runner.config.semantic(*step.config)
    # By content, not by Delta version: the same snapshot has one fingerprint, in however many commits it came.
    pinned: dict[str, Any] = {
        "chunks": count, "content": str(content), "cells": cell_count(count, runner.config.retrieval.cells),
    }  # fmt: skip
    upstream = {table: runner.ctx.fingerprints[table] for table in step.reads}
    value = fingerprint(step.writes, step.version, config, {}, upstream, pinned)
    return Artifact(value, step.name, step.writes, config, {}, upstream, versions, pinned)


def serves(runner: Runner, value: str) -> bool:
    """Whether the index's files are there for the mode that the config asks for now."""
    directory = runner.workspace.index(value)
    if not (directory / MANIFEST).is_file():
        return False
    return is_partitioned(runner, value) or read_manifest(directory)["mode"] == BROADCAST


def drive_index(runner: Runner, artifact: Artifact) -> None:
    """Train the cells, assign every chunk to its own, measure the recall, write the files. Each part is kept once it is done."""
    if runner.registry.is_complete(artifact.fingerprint) and serves(runner, artifact.fingerprint):
        return  # a refresh of a corpus that has not changed
    chunks, vectors = (
        runner.store.read_ok(table, runner.ctx.fingerprints[table], artifact.input_versions[table])
        for table in ("chunks", "chunk_vectors")
    )
    rows = build.snapshot(chunks, vectors)
    n, cells = int(artifact.pinned["chunks"]), int(artifact.pinned["cells"])
    directory = runner.workspace.index(artifact.fingerprint)
    directory.mkdir(parents=True, exist_ok=True)
    _check_collisions(rows, n)
    pool = build.sampled(rows, n, POOL, "text_hash")
    write_array(directory / "pool_ids.npy", pool["chunk_id"].to_numpy())
    write_array(directory / "pool_hashes.npy", pool["text_hash"].to_numpy())
    if not (directory / "centroids.npy").is_file():
        # Once: trained again they could differ, so what was assigned by lost ones goes too. (Of one cell there is no other.)
        if cells > 1:
            runner.store.drop("index_cells", artifact.fingerprint)
        sample = build.sampled(rows, n, max(SAMPLE_A_CELL * cells, 256), "vector")
        write_array(directory / "centroids.npy", train_cells(build.grid_of(sample["vector"]), cells, runner.config.seed))
    centroids = read_array(directory / "centroids.npy", np.int16, cells, None)
    d = int(centroids.shape[1])
    mode, why = choose_mode(runner.config.retrieval.mode, n, d, executor_memory(settings_of(runner.spark)))
    kind = "exact, one cell" if cells == 1 else f"{cells:,} cells"
    runner.ctx.say(f"index: {n:,} vectors of {d} dimensions, {kind}; {why}")
    _assign(runner, artifact.fingerprint, rows, n, np.asarray(centroids))
    stored = runner.store.read_ok("index_cells", artifact.fingerprint)
    sizes = np.zeros(cells, np.int64)
    for row in stored.groupBy("cell_id").count().collect():
        sizes[row.cell_id] = row["count"]
    if int(sizes.sum()) != n:
        raise IndexFileError(f"table index_cells: {sizes.sum()} rows of {n}; run the same command again")
    write_array(directory / "sizes.npy", sizes)
    if not (directory / "probes_needed.npy").is_file():
        queries = build.sampled(rows, n, build.RECALL_QUERIES, "vector", "text_hash")
        needed = build.probes_needed(runner.ctx, stored, np.asarray(centroids), queries, runner.config.retrieval.top_k)
        write_array(directory / "probes_needed.npy", needed)
    if mode == BROADCAST:
        write_vectors(directory, n, d, cells, build.in_parts(stored, sizes))
    # Of an index without cells there is nothing to be measured.
    seal(directory, {"mode": mode, "n": n, "d": d, "cells": cells})
    if cells > 1:
        found = recall(directory, runner.config.retrieval.nprobe)
        runner.ctx.say(f"index: recall@{runner.config.retrieval.top_k} {found:.3f} at nprobe {runner.config.retrieval.nprobe}")
    check_recall(runner, artifact.fingerprint)


def _check_collisions(rows: DataFrame, n: int) -> None:
    if (distinct := rows.agg(F.countDistinct("chunk_id")).collect()[0][0]) != n:
        raise NothingToDo(
            f"index: {n - distinct} chunks share a chunk_id with another (a hash collision); change a doc_id of each such pair"
        )


def _assign(runner: Runner, value: str, rows: DataFrame, n: int, centroids: Any) -> None:
    units = max(1, -(-n // runner.config.run.vectors_per_unit))
    unit_of = F.pmod(F.col("chunk_id"), F.lit(units)).cast("int")
    done = runner.store.read("index_cells", value).select("chunk_id")
    todo = rows.join(done, "chunk_id", how="left_anti")
    for unit, size in sorted((row[0], row[1]) for row in todo.groupBy(unit_of).count().collect()):
        # The version that is read is pinned, so that a unit's own append cannot change what it is computed from.
        name = f"index-{value}-{runner.store.version('index_cells')}-{unit}-of-{units}"
        output = build.assign(runner.ctx.sized(size), todo.where(unit_of == unit), centroids)
        runner.store.append("index_cells", output, value, (name, 1))


def recall(directory: Path, nprobe: int) -> float:
    """Share of the true neighbours that the nearest `nprobe` cells hold, as measured when the index was built."""
    needed = read_array(directory / "probes_needed.npy", np.int64, None)
    return float((needed <= nprobe).mean())


def check_recall(runner: Runner, value: str) -> None:
    """Raise RecallTooLow where a search would miss more than the config allows."""
    retrieval, directory = runner.config.retrieval, runner.workspace.index(value)
    if (found := recall(directory, retrieval.nprobe)) < retrieval.min_recall:
        needed = read_array(directory / "probes_needed.npy", np.int64, None)
        enough = int(np.quantile(needed, retrieval.min_recall, method="higher"))
        raise RecallTooLow(
            f"index: recall@{retrieval.top_k} is {found:.3f} at retrieval.nprobe {retrieval.nprobe}, below retrieval.min_recall "
            f"{retrieval.min_recall}; nprobe {enough} would reach it, or lower retrieval.min_recall to go on with less"
        )


# --- partitioned search -----------------------------------------------------------------------------------------------


def is_partitioned(runner: Runner, value: str) -> bool:
    """Whether searches of an index go by cells through a shuffle."""
    facts = read_manifest(runner.workspace.index(value))
    mode, _ = choose_mode(runner.config.retrieval.mode, facts["n"], facts["d"], executor_memory(settings_of(runner.spark)))
    return mode == PARTITIONED


def drive_partitioned(step: Stage, runner: Runner, artifact: Artifact, progress: StepProgress) -> None:
    """Route the queries that have no candidates yet, search range after range, merge. Each is resumed by its rows."""
    from entropylong.pipeline.drivers.dispatch import commit_units, left_of

    value, index = artifact.fingerprint, runner.ctx.fingerprints["index"]
    frames = runner.frames(step)
    todo = left_of(step, runner, value, frames)
    commit_units(ROUTE, runner, value, frames, left_of(ROUTE, runner, value, {**frames, step.reads[0]: todo}, todo))
    queries = runner.store.read_ok("query_cells", value).join(todo.select(*step.key), list(step.key), how="left_semi")
    vectors = runner.store.read_ok("index_cells", index)
    sizes = read_array(runner.workspace.index(index) / "sizes.npy", np.int64, None)
    ranges = by_ranges(sizes, runner.config.run.vectors_per_unit)
    for number, (first, end) in enumerate(ranges, start=1):
        _search_range(runner, value, queries, vectors, first, np.asarray(sizes[first:end]))
        if len(ranges) > 1:
            runner.ctx.say(f"search: range {number} of {len(ranges)} (cells {first} to {end - 1}), {progress.seconds:.0f} s")
    found = {**frames, "partial_candidates": runner.store.read_ok("partial_candidates", value)}
    commit_units(MERGE, runner, value, found, todo, progress)
    for table in ("partial_candidates", "query_cells"):
        runner.store.drop(table, value)


def _search_range(runner: Runner, value: str, queries: DataFrame, vectors: DataFrame, first: int, sizes: Ints) -> None:
    inside = (F.col("cell_id") >= first) & (F.col("cell_id") < first + len(sizes))
    done = runner.store.read("partial_candidates", value).where(F.col("first_cell") == first).select("root_id", "position")
    asking = queries.where(F.exists("cells", lambda cell: (cell >= first) & (cell < first + len(sizes))))
    left = asking.join(done, ["root_id", "position"], how="left_anti")
    if left.head(1):
        name = f"search-{value}-{first}-{runner.store.version('partial_candidates')}"
        output = search_range(runner.ctx, left, vectors.where(inside), first, sizes)
        runner.store.append("partial_candidates", output, value, (name, 1))
