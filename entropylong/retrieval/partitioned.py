"""Partitioned search: queries go to the vectors of their cells. The same hits as one index in memory, at equal nprobe.

Three steps, each committed: every query's cells (`query_cells`); a range of cells at a time, what its queries find there
(`partial_candidates`); the best of all ranges (`candidates`). The vectors are read once, whatever the number of queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.balance import WAVES, lpt, partition_salts
from entropylong.core.context import Frames, StageContext
from entropylong.core.udf import Row, Rows, map_rows
from entropylong.retrieval.build import vectors_of
from entropylong.retrieval.grid import SCALE, from_bytes, grid_from_bytes, to_grid
from entropylong.retrieval.index import open_index
from entropylong.retrieval.scoring import NO_ID, Exclusions, Ints, Nearest, Vectors, nearest
from entropylong.retrieval.sizing import BLOCK_QUERIES, BLOCK_VECTORS
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import OK, QUERY_CELLS, struct_of
from entropylong.utils.isolation import refused

# A cell with more queries is searched by several tasks.
PART_QUERIES = 16 * BLOCK_QUERIES

_TASKS = "cell_id INT, vector_parts INT, query_parts INT, vector_part INT, query_part INT, task BIGINT"
_FOUND = "root_id STRING, position INT, chunk_ids ARRAY<BIGINT>, losses ARRAY<INT>"
_FOUND_ARROW = pa.schema(
    [("root_id", pa.string()), ("position", pa.int32()), ("chunk_ids", pa.list_(pa.int64())), ("losses", pa.list_(pa.int32()))]
)


def routes(ctx: StageContext, frames: Frames) -> DataFrame:
    """Queries -> their cells, with all that a search of them needs. Executors: the centroids."""
    handle, nprobe, rule = ctx.index, ctx.config.retrieval.nprobe, ctx.config.chunks
    from entropylong.retrieval.queries import keys_of_queries, own_of, with_queries

    def run(rows: Rows) -> Iterator[Row]:
        cells = open_index(handle).cells  # type: ignore[arg-type]
        for row in rows:
            own = own_of(row, rule)
            grid = to_grid(from_bytes([query["vector"] for query in row["queries"]]))
            probes = cells.nearest(grid.astype(np.float32), nprobe).tolist()
            for query, vector, where in zip(row["queries"], grid, probes, strict=True):
                key = {"root_id": row["root_id"], "position": query["position"]}
                yield key | {"vector": vector.tobytes(), "own": own, "cells": where, "outcome": OK}

    return map_rows(with_queries(frames).repartition(ctx.parallelism, "root_id"), QUERY_CELLS, run, keys_of_queries)


def search_range(ctx: StageContext, queries: DataFrame, vectors: DataFrame, first: int, sizes: Ints) -> DataFrame:
    """What queries find in the cells `first` .. `first + len(sizes) - 1`: a row of partial_candidates each, of top_k hits at most.

    Driver: counts the queries of each cell and cuts the work into tasks of equal cost; a cell with many vectors or queries is
    searched in parts. Executors: one part's vectors in memory, its queries streaming past.

    Args:
        queries: rows of query_cells.
        vectors: rows of index_cells in these cells.
        first: the first cell.
        sizes: vectors in each cell.
    """
    top_k, last = ctx.config.retrieval.top_k, first + len(sizes)
    exploded = queries.withColumn("cell_id", F.explode("cells")).where((F.col("cell_id") >= first) & (F.col("cell_id") < last))
    counts = np.zeros(len(sizes), np.int64)
    for row in exploded.groupBy("cell_id").count().collect():
        counts[row.cell_id - first] = row["count"]
    tasks, placed = cut(sizes, counts, first, ctx.cores)
    where = F.broadcast(local_frame(ctx.spark, placed, struct_of(_TASKS)))
    part_of = F.pmod(F.xxhash64("root_id", "position"), "query_parts")
    sides = [
        vectors.join(where, "cell_id", how="inner")
        .where(F.pmod("chunk_id", "vector_parts") == F.col("vector_part"))
        .withColumn("is_query", F.lit(False)),
        exploded.join(where, "cell_id", how="inner").where(part_of == F.col("query_part")).withColumn("is_query", F.lit(True)),
    ]
    group = ["cell_id", "vector_part", "query_part"]
    columns = [*group, "is_query", "task", "vector", "chunk_id", "text_hash", "root_id", "position", "own"]
    both = sides[0].unionByName(sides[1], allowMissingColumns=True).select(*columns)
    ordered = both.repartition(tasks, "task").sortWithinPartitions(*group, "is_query")

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        part = _Part(top_k)
        for batch in batches:
            for piece in _pieces(batch, [*group, "is_query"]):
                yield from part.take(piece)
        yield from part.search()

    hit = F.transform(
        F.arrays_zip("losses", "chunk_ids"), lambda h: F.struct(h["losses"].alias("loss"), h["chunk_ids"].alias("chunk_id"))
    )
    query_hits = (
        ordered.mapInArrow(run, _FOUND)
        .groupBy("root_id", "position")
        .agg(F.flatten(F.collect_list(hit)).alias("hits"))
        .withColumn("hits", F.slice(F.array_sort("hits"), 1, top_k))
    )
    # A query that finds nothing here has its row too: that is how the range is known to be done for it.
    keys = exploded.select("root_id", "position").distinct()
    nothing = F.array().cast(query_hits.schema["hits"].dataType)
    return keys.join(query_hits, ["root_id", "position"], how="left").select(
        "root_id", "position", F.lit(first).alias("first_cell"), F.coalesce("hits", nothing).alias("hits")
    )


def cut(sizes: Ints, counts: Ints, first: int, cores: int) -> tuple[int, Rows]:
    """Tasks for a range of cells: their number, and of each part of a cell the task that searches it. Pure.

    A cell with no vector or no query needs no task. The costliest part is a block of vectors against PART_QUERIES queries, and
    parts go to tasks by LPT, so the slowest task stays near the others.

    Args:
        sizes: vectors of each cell.
        counts: queries of each cell.
        first: id of the first cell.
        cores: tasks that run at once.
    """
    parts: Rows = []
    costs: list[float] = []
    for place in np.flatnonzero((sizes > 0) & (counts > 0)).tolist():
        n, m = int(sizes[place]), int(counts[place])
        vector_parts, query_parts = -(-n // BLOCK_VECTORS), -(-m // PART_QUERIES)
        for vector_part in range(vector_parts):
            for query_part in range(query_parts):
                parts.append(
                    {"cell_id": first + place, "vector_parts": vector_parts, "query_parts": query_parts,
                     "vector_part": vector_part, "query_part": query_part}
                )  # fmt: skip
                # Reading a row costs as much as some hundred products of vectors.
                costs.append((n / vector_parts) * (m / query_parts) + 500 * (n / vector_parts + m / query_parts))
    tasks = max(1, min(len(parts), WAVES * cores))
    salts = partition_salts(tasks)
    return tasks, [part | {"task": salts[task]} for part, task in zip(parts, lpt(costs, tasks), strict=True)]


def _pieces(batch: pa.RecordBatch, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The batch cut where any of the columns changes."""
    if not batch.num_rows:
        return
    keys = np.stack([batch[name].cast(pa.int32()).to_numpy(zero_copy_only=False) for name in columns])
    cuts = [0, *(np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1).tolist(), batch.num_rows]
    for start, end in pairwise(cuts):
        yield batch.slice(start, end - start)


class _Part:
    """One part of a cell at a time: its vectors come first and stay in memory, its queries stream past, a block at a time."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._key: tuple[int, ...] = ()
        self._vectors: list[pa.RecordBatch] = []
        self._queries: list[pa.RecordBatch] = []
        self._loaded: Vectors | None = None

    def take(self, piece: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Rows of one part and one side."""
        key = tuple(piece[name][0].as_py() for name in ("cell_id", "vector_part", "query_part"))
        if key != self._key:
            yield from self.search()
            self._key, self._loaded = key, None
        if not piece["is_query"][0].as_py():
            self._vectors.append(piece)
            return
        self._queries.append(piece)
        if sum(held.num_rows for held in self._queries) >= BLOCK_QUERIES:
            yield from self.search()

    def search(self) -> Iterator[pa.RecordBatch]:
        """Compare the queries that are held."""
        if self._vectors:
            self._loaded, self._vectors = vectors_of(pa.Table.from_batches(self._vectors)), []
        if self._queries and self._loaded is not None:
            queries = pa.Table.from_batches(self._queries)
            roots, owners = np.unique(np.array(queries["root_id"].to_pylist(), object), return_inverse=True)
            first = {owner: row for row, owner in reversed(list(enumerate(owners.tolist())))}
            own = [queries["own"][first[owner]].as_py() for owner in range(len(roots))]
            values = grid_from_bytes(queries["vector"].to_pylist()).astype(np.float32)
            best = nearest(values, self._loaded, self._top_k, owners, Exclusions(own))
            yield _found_batch(queries, best)
        self._queries = []


def _found_batch(queries: pa.Table, best: Nearest) -> pa.RecordBatch:
    # Built from whole arrays: a Python object a hit would take longer than the search.
    is_hit = best.ids != NO_ID
    offsets = pa.array(np.concatenate([[0], np.cumsum(is_hit.sum(axis=1))]).astype(np.int32))
    losses = (-best.scores[is_hit]).astype(np.int32)
    return pa.RecordBatch.from_arrays(
        [
            queries["root_id"].combine_chunks(),
            queries["position"].combine_chunks(),
            pa.ListArray.from_arrays(offsets, pa.array(best.ids[is_hit])),
            pa.ListArray.from_arrays(offsets, pa.array(losses)),
        ],
        schema=_FOUND_ARROW,
    )


def merge(ctx: StageContext, frames: Frames) -> DataFrame:
    """What each query found in all ranges -> candidates. Built-ins only.

    Args:
        ctx: the context.
        frames: the queries that are asked for (first) and partial_candidates.
    """
    keys = next(iter(frames.values())).select("root_id", "position")
    best = F.slice(F.array_sort(F.flatten(F.collect_list("hits"))), 1, ctx.config.retrieval.top_k).alias("best")
    partial_hits = frames["partial_candidates"].join(keys, ["root_id", "position"], how="left_semi")
    merged = partial_hits.groupBy("root_id", "position").agg(best)
    hits = F.transform(
        "best",
        lambda hit, place: F.struct(
            hit["chunk_id"].alias("chunk_id"), (place + 1).alias("rank"),
            (-hit["loss"].cast("double") / SCALE**2).cast("float").alias("score"),
        ),
    )  # fmt: skip
    none = refused("NO_CANDIDATE", "the probed cells hold no chunk but the root's own", "skipped")
    reasons = {name: F.when(F.size("best") == 0, value) for name, value in none.items()}
    columns = {"hits": F.when(F.size("best") > 0, hits), **reasons, "outcome": F.coalesce(reasons["outcome"], F.lit(OK))}
    return merged.withColumns(columns).drop("best").repartition(ctx.parallelism, "root_id")


def by_ranges(sizes: Ints, vectors: int) -> list[tuple[int, int]]:
    """(first, end) of ranges of cells that hold about so many vectors each: the units of a partitioned search."""
    ranges, first, held = [], 0, 0
    for cell, size in enumerate(sizes.tolist()):
        if held and held + size > vectors:
            ranges.append((first, cell))
            first, held = cell, 0
        held += size
    return [*ranges, (first, len(sizes))]
