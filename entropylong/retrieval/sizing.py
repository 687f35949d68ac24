"""How large an index is cut: cells, broadcast or partitioned, blocks. Pure arithmetic."""

from __future__ import annotations

import math

BROADCAST, PARTITIONED = "broadcast", "partitioned"
# Below this a search that compares with every vector is quick enough, and exact.
EXACT_BELOW = 1_000_000
# Sampled vectors a cell, to train with; faiss asks for 39 at least.
SAMPLE_A_CELL = 64
# Vectors and queries that are compared at a time: 100 MB each at 384 dimensions, and as much in between.
BLOCK_VECTORS, BLOCK_QUERIES = 65536, 4096
# Random controls are drawn from so many chunks, those with the smallest ids: a chunk_id is a hash, so they are a sample.
POOL = 1_000_000
# Of an executor's memory: what an index may take there in broadcast mode.
MEMORY_SHARE = 0.5
# Beside a vector: its id and the hash of its text.
ID_BYTES = 16


def cell_count(n: int, cells: int | None) -> int:
    """`retrieval.cells` as given, or by size: one cell (exact search) for a small corpus, else about 2 sqrt(n), a power of two."""
    if cells is not None:
        return max(1, min(cells, n))
    return 1 if n < EXACT_BELOW else 2 ** round(math.log2(2 * math.sqrt(n)))


def index_bytes(n: float, d: int) -> float:
    """Of the files of broadcast mode."""
    return n * (2 * d + ID_BYTES)


def choose_mode(setting: str, n: float, d: int, memory: float) -> tuple[str, str]:
    """`retrieval.mode` as given, or by size; and why.

    Args:
        setting: the config's value.
        n, d: vectors and their dimensions.
        memory: bytes that an executor has.
    """
    if setting != "auto":
        return setting, f"{setting}, as retrieval.mode says"
    size = index_bytes(n, d)
    mode = BROADCAST if size <= MEMORY_SHARE * memory else PARTITIONED
    than = "at most" if mode == BROADCAST else "more than"
    takes, has = f"{size / 1e9:,.{0 if size > 1e10 else 2}f} GB", f"{memory / 1e9:,.0f} GB"
    return mode, f"{mode}, as {n:,.0f} vectors take {takes}, {than} half of the {has} of an executor"
