"""What the index and the search cost: pure arithmetic over the way they are built."""

from __future__ import annotations

from dataclasses import dataclass

from entropylong.config import Config
from entropylong.retrieval.sizing import (
    BLOCK_VECTORS,
    ID_BYTES,
    PARTITIONED,
    POOL,
    SAMPLE_A_CELL,
    cell_count,
    choose_mode,
    index_bytes,
)  # fmt: skip
from entropylong.spark.resources import machine_memory

# What one core reaches in FAISS's inner products, in FLOP/s.
CORE_FLOPS = 50e9
# Memory of an executor that `retrieval.mode: auto` is planned with, where it is not this machine.
NODE_BYTES = 500e9
# Of a query on its way: own texts' hashes, ids; of a hit that is found in a cell.
QUERY_BYTES, HIT_BYTES = 100, 12


@dataclass(frozen=True)
class RetrievalPlan:
    """Costs of `index` and `search` beside the encoder's: core hours, bytes of memory, shuffle and storage; the mode and why."""

    cells: int
    mode: str
    why: str
    index_core_hours: float
    index_memory: float
    index_shuffle: float
    index_storage: float
    search_core_hours: float
    search_memory: float
    search_shuffle: float

    @property
    def mode_and_cells(self) -> str:
        """Both, with the reason and what is not known before the index is built."""
        if self.cells == 1:
            return f"one cell, exact; {self.why}"
        return f"{self.cells:,} cells, whose recall at retrieval.nprobe is measured when the index is built; {self.why}"


def plan_retrieval(config: Config, chunks: float, queries: float, width: int) -> RetrievalPlan:
    """The plan for so many chunks and queries, and vectors of `width` dimensions."""
    retrieval, vector = config.retrieval, 2 * width
    cells = cell_count(round(chunks), retrieval.cells)
    probes = min(retrieval.nprobe, cells)
    memory = machine_memory() if config.plan.device == "here" else NODE_BYTES
    mode, why = choose_mode(retrieval.mode, chunks, width, memory)
    compared = queries * (cells * (cells > 1) + chunks * probes / cells)
    block = 3 * 4 * width * BLOCK_VECTORS
    scattered = chunks * (vector + ID_BYTES) + queries * probes * (vector + QUERY_BYTES + HIT_BYTES * retrieval.top_k)
    stored = chunks * (vector + ID_BYTES + 4)
    return RetrievalPlan(
        cells, mode, why,
        # Assigning each chunk to its cell; training and the measure of recall are small against it.
        index_core_hours=2 * chunks * cells * width * (cells > 1) / CORE_FLOPS / 3600,
        index_memory=SAMPLE_A_CELL * cells * (vector + 4 * width) + POOL * ID_BYTES + block,
        # With the hash of its text, to the tasks of its cell, and sorted there.
        index_shuffle=3 * stored,
        index_storage=stored + (0 if mode == PARTITIONED else index_bytes(chunks, width)),
        search_core_hours=2 * compared * width / CORE_FLOPS / 3600,
        search_memory=block if mode == PARTITIONED else index_bytes(chunks, width),
        search_shuffle=scattered if mode == PARTITIONED else 0.0,
    )  # fmt: skip
