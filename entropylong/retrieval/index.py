"""The files of an index: written atomically with a manifest, copied once a node, memory-mapped in each worker. Pure numpy.

Always there: the centroids of the cells, a pool of chunks for random controls, and what was measured of its recall. In broadcast
mode also all vectors, sorted by cell; in partitioned mode those stay in the table `index_cells`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entropylong.core.handles import IndexHandle
from entropylong.errors import IndexFileError
from entropylong.retrieval.cells import Cells
from entropylong.retrieval.grid import Grid, cosine
from entropylong.retrieval.scoring import NO_ID, Exclusions, Ints, Nearest, Vectors, nearest
from entropylong.retrieval.sizing import BLOCK_QUERIES, BLOCK_VECTORS, BROADCAST, POOL
from entropylong.storage.array_files import MANIFEST, Contents, copy_once, read_array, read_manifest, write_array
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import file_sha256, xxhash64

INDEX_FILES = Contents(IndexFileError, "run `entropylong run index`")
COMMON = ("centroids", "sizes", "pool_ids", "pool_hashes", "probes_needed")
_BROADCAST_FILES = ("vectors", "chunk_ids", "text_hashes", "offsets")


@dataclass(frozen=True)
class Hit:
    """A retrieved chunk: rank from 1, cosine score."""

    chunk_id: int
    rank: int
    score: float


def ranked(scores: Sequence[float], ids: Sequence[int]) -> list[Hit]:
    """Hits of one query from scores on the grid, best first; places without a chunk are left out."""
    return [Hit(i, rank, cosine(s)) for rank, (s, i) in enumerate(zip(scores, ids, strict=True), start=1) if i != NO_ID]


def write_vectors(directory: Path, n: int, d: int, cells: int, parts: Iterable[tuple[Ints, Ints, Ints, Grid]]) -> None:
    """The files of broadcast mode, from parts (cell of each chunk, chunk_ids, text_hashes, vectors) in order of cell and id.

    A part at a time passes through memory. Files grow at their end alone: a Databricks volume takes no other write.
    """
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "vectors": (np.int16, (n, d)), "chunk_ids": (np.int64, (n,)), "text_hashes": (np.int64, (n,)),
    }  # fmt: skip
    counts = np.zeros(cells, np.int64)
    with ExitStack() as open_files:
        files = {name: open_files.enter_context((directory / f"{name}.npy.part").open("wb")) for name in shapes}
        for name, (dtype, shape) in shapes.items():
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)  # type: ignore[no-untyped-call]
        for cell_ids, chunk_ids, text_hashes, vectors in parts:
            for (name, (dtype, _)), values in zip(shapes.items(), (vectors, chunk_ids, text_hashes), strict=True):
                files[name].write(np.ascontiguousarray(values, dtype).tobytes())
            counts += np.bincount(cell_ids, minlength=cells)
    if int(counts.sum()) != n:
        raise IndexFileError(f"{directory}: {counts.sum()} vectors were read of {n}; run `entropylong run index` again")
    for name in shapes:
        (directory / f"{name}.npy.part").replace(directory / f"{name}.npy")
    write_array(directory / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def seal(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest, last of all: with it the index is there."""
    names = [*COMMON, *(_BROADCAST_FILES if facts["mode"] == BROADCAST else ())]
    paths = [directory / f"{name}.npy" for name in names]
    files = [{"path": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size} for path in paths]
    write_whole(directory / MANIFEST, json.dumps({**facts, "files": files}, indent=1))


def node_copy(handle: IndexHandle) -> Path:
    """The index files on this node's disk, copied and verified once under a lock.

    Raises:
        IndexFileError: a file does not match the manifest.
    """
    target = Path(handle.node_cache) / "index" / f"{handle.fingerprint}-{handle.manifest_sha256[:16]}"
    return copy_once(Path(handle.directory), handle.manifest_sha256, target, INDEX_FILES)


class OpenIndex:
    """An index in a worker: cells, the pool, and in broadcast mode all vectors, memory-mapped.

    Raises:
        IndexFileError: a file is not what an index of ours holds, whatever its manifest says of it.
    """

    def __init__(self, directory: Path) -> None:
        facts = read_manifest(directory, INDEX_FILES)
        n, d, cells = (int(facts[name]) for name in ("n", "d", "cells"))
        self.mode = str(facts["mode"])
        self.cells = Cells(read_array(directory / "centroids.npy", INDEX_FILES, np.int16, cells, d))
        self._pool_ids = read_array(directory / "pool_ids.npy", INDEX_FILES, np.int64, min(n, POOL))
        self._pool_hashes = read_array(directory / "pool_hashes.npy", INDEX_FILES, np.int64, min(n, POOL))
        if self.mode == BROADCAST:
            self._vectors = read_array(directory / "vectors.npy", INDEX_FILES, np.int16, n, d)
            self._ids = read_array(directory / "chunk_ids.npy", INDEX_FILES, np.int64, n)
            self._hashes = read_array(directory / "text_hashes.npy", INDEX_FILES, np.int64, n)
            self._offsets = read_array(directory / "offsets.npy", INDEX_FILES, np.int64, cells + 1)
            if self._offsets[0] != 0 or self._offsets[-1] != n or (np.diff(self._offsets) < 0).any():
                raise INDEX_FILES.damaged(directory, f"{directory / 'offsets.npy'}: does not cut {n} vectors into cells")

    def search(self, queries: Grid, owners: Ints, own: Sequence[Sequence[int]], top_k: int, nprobe: int) -> Nearest:
        """The top_k chunks of each query in its `nprobe` nearest cells, its owner's texts left out. Broadcast mode.

        Args:
            queries: `[m, d]` on the grid.
            owners: number of each query's root `[m]`.
            own: hashes of the texts of each root's own chunks.
        """
        exclusions = Exclusions(own)
        best = Nearest.empty(len(queries), top_k)
        for start in range(0, len(queries), BLOCK_QUERIES):
            block = np.arange(start, min(start + BLOCK_QUERIES, len(queries)))
            values = queries[block].astype(np.float32)
            probes = self.cells.nearest(values, nprobe)
            for cell in np.unique(probes).tolist():
                asking = np.flatnonzero((probes == cell).any(axis=1))
                for vectors in self._in_cell(cell):
                    part = nearest(values[asking], vectors, top_k, owners[block[asking]], exclusions)
                    best.merge(block[asking], part)
        return best

    def _in_cell(self, cell: int) -> Iterable[Vectors]:
        first, last = int(self._offsets[cell]), int(self._offsets[cell + 1])
        for start in range(first, last, BLOCK_VECTORS):
            rows = slice(start, min(start + BLOCK_VECTORS, last))
            yield Vectors(self._vectors[rows].astype(np.float32), self._ids[rows], self._hashes[rows])

    def random_chunks(self, count: int, salt: Sequence[str | int], own: set[int], excluded_ids: set[int]) -> dict[int, int]:
        """Up to `count` distinct chunks from the pool, chosen by hash of the salt: their ids, and the hashes of their texts.

        Args:
            count: how many.
            salt: what the choice depends on.
            own: hashes of the texts that are left out.
            excluded_ids: chunk ids that are left out.
        """
        chosen: dict[int, int] = {}
        for attempt in range(20 * count + 20):
            if len(chosen) == count:
                break
            row = xxhash64(*salt, attempt) % len(self._pool_ids)
            chunk, text_hash = int(self._pool_ids[row]), int(self._pool_hashes[row])
            if chunk not in excluded_ids and chunk not in chosen and text_hash not in own:
                chosen[chunk] = text_hash
        return chosen


_open: dict[str, OpenIndex] = {}


def open_index(handle: IndexHandle) -> OpenIndex:
    """The index of this worker process, opened at first use."""
    key = json.dumps(asdict(handle))
    if key not in _open:
        _open.clear()
        _open[key] = OpenIndex(node_copy(handle))
    return _open[key]
