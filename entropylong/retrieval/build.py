"""The index in Spark: sampled vectors -> cells; chunks -> their cell; recall against exact search; the files of broadcast mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from entropylong.core.balance import partition_salts
from entropylong.core.context import StageContext
from entropylong.core.udf import Rows, map_rows
from entropylong.errors import NothingToDoError
from entropylong.retrieval.cells import Cells
from entropylong.retrieval.grid import Grid, from_bytes, grid_from_bytes, to_grid
from entropylong.retrieval.scoring import Exclusions, Ints, Nearest, Vectors, nearest
from entropylong.retrieval.sizing import BLOCK_VECTORS
from entropylong.storage.schemas import INDEX_CELLS, OK
from entropylong.utils.hashing import share_threshold

# Chunks that recall is measured with, each as a query whose own text is left out.
RECALL_QUERIES = 256
# A sample by hash is larger than asked for by this much, and then cut: so it is never too small.
SLACK = 1.02
# Rows of index_cells that the driver holds when it writes the files of broadcast mode.
PART_ROWS = 262_144


def sampled(rows: DataFrame, n: int, size: int, *columns: str) -> pa.Table:
    """Up to `size` of the n rows, those with the smallest chunk_id, in that order. It is a hash, so they are a sample."""
    few = rows if size >= n else rows.where(F.col("chunk_id") <= share_threshold(min(1.0, SLACK * size / n)))
    return few.select("chunk_id", *columns).toArrow().sort_by("chunk_id").slice(0, size)


def grid_of(stored: pa.ChunkedArray) -> Grid:
    """Float16 vectors of a table, on the grid."""
    return to_grid(from_bytes(stored.to_pylist()))


def assign(ctx: StageContext, rows: DataFrame, centroids: Grid) -> DataFrame:
    """The rows with their cell, vectors on the grid, in files that are sorted by cell. Executors: pure numpy."""
    # The cells, not their centroids: a worker makes them once, not with each batch.
    shared = ctx.spark.sparkContext.broadcast(Cells(centroids))

    def run(batch: Rows) -> Iterator[dict[str, Any]]:
        grid = to_grid(from_bytes([row["vector"] for row in batch]))
        cells = shared.value.nearest(grid.astype(np.float32), 1)[:, 0]
        for row, cell, vector in zip(batch, cells.tolist(), grid, strict=True):
            yield {
                "chunk_id": row["chunk_id"], "cell_id": cell, "text_hash": row["text_hash"], "vector": vector.tobytes(),
                "outcome": OK,
            }  # fmt: skip

    assigned = map_rows(rows.repartition(ctx.parallelism, "chunk_id"), INDEX_CELLS, run)
    # A file holds neighbouring cells: a search of some cells need not read the others'. (Exact, so a retried task says the same.)
    salts = F.array(*(F.lit(salt) for salt in partition_salts(ctx.parallelism)))
    place = F.floor(F.col("cell_id") * ctx.parallelism / len(centroids)).cast("int")
    return assigned.repartition(ctx.parallelism, salts[place]).sortWithinPartitions("cell_id", "chunk_id")


def probes_needed(ctx: StageContext, cells: DataFrame, centroids: Grid, sample: pa.Table, top_k: int) -> Ints:
    """Of each true neighbour of the sampled chunks: how many cells must be probed to find it `[neighbours]`.

    One pass over all vectors finds the true neighbours; the share of numbers up to nprobe is the recall at nprobe.
    """
    queries, texts = grid_of(sample["vector"]), sample["text_hash"].to_pylist()
    if len(centroids) == 1:
        return np.ones(len(queries) * top_k, np.int64)
    shared = ctx.spark.sparkContext.broadcast((queries, texts))

    def exact(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        query_grid, own = shared.value
        values, owners, exclusions = query_grid.astype(np.float32), np.arange(len(query_grid)), Exclusions([[text] for text in own])
        best, where = Nearest.empty(len(query_grid), top_k), dict[int, int]()
        for vectors, cell_ids in _blocks(batches):
            best.merge(owners, nearest(values, vectors, top_k, owners, exclusions))
            new = np.isin(vectors.ids, best.ids)
            where |= zip(vectors.ids[new].tolist(), cell_ids[new].tolist(), strict=True)
        rows = [
            {"query": query, "chunk_id": i, "cell_id": where[i], "score": float(score)}
            for query, (ids, scores) in enumerate(zip(best.ids.tolist(), best.scores.tolist(), strict=True))
            for i, score in zip(ids, scores, strict=True)
            if np.isfinite(score)
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=_FOUND)

    order = Window.partitionBy("query").orderBy(F.col("score").desc(), "chunk_id")
    neighbours = (
        cells.select("chunk_id", "cell_id", "text_hash", "vector")
        .mapInArrow(exact, "query INT, chunk_id BIGINT, cell_id INT, score FLOAT")
        .withColumn("place", F.row_number().over(order))
        .where(F.col("place") <= top_k)
        .toArrow()
    )
    if not neighbours.num_rows:
        raise NothingToDoError("index: no chunk has a neighbour with another text; give more corpus text")
    return Cells(centroids).ranks(queries.astype(np.float32)[neighbours["query"].to_numpy()], neighbours["cell_id"].to_numpy())


_FOUND = pa.schema([("query", pa.int32()), ("chunk_id", pa.int64()), ("cell_id", pa.int32()), ("score", pa.float32())])


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Vectors, Ints]]:
    """Rows of index_cells in blocks that a matrix product likes."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= BLOCK_VECTORS:
            yield _block(held)
            held = []
    if held:
        yield _block(held)


def _block(held: list[pa.RecordBatch]) -> tuple[Vectors, Ints]:
    table = pa.Table.from_batches(held)
    return vectors_of(table), table["cell_id"].to_numpy()


def vectors_of(table: pa.Table) -> Vectors:
    """Rows of index_cells, to search."""
    values = grid_from_bytes(table["vector"].to_pylist()).astype(np.float32)
    return Vectors(values, table["chunk_id"].to_numpy(), table["text_hash"].to_numpy())


def in_parts(cells: DataFrame, sizes: Ints) -> Iterator[tuple[Ints, Ints, Ints, Grid]]:
    """The rows of index_cells in order of cell and id, some cells at a time, for the files of broadcast mode."""
    first = 0
    while first < len(sizes):
        last = first + 1
        while last < len(sizes) and sizes[first : last + 1].sum() <= PART_ROWS:
            last += 1
        rows = cells.where((F.col("cell_id") >= first) & (F.col("cell_id") < last))
        table = rows.select("cell_id", "chunk_id", "text_hash", "vector").toArrow()
        order = np.lexsort((table["chunk_id"].to_numpy(), table["cell_id"].to_numpy()))
        if table.num_rows:
            grid = grid_from_bytes(table["vector"].to_pylist())
            ids, hashes = table["chunk_id"].to_numpy(), table["text_hash"].to_numpy()
            yield table["cell_id"].to_numpy()[order], ids[order], hashes[order], grid[order]
        first = last
