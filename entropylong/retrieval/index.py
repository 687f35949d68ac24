"""The exact index: files with a manifest, opened memory-mapped once a worker; search with own chunks and copies left out.

Pure numpy and faiss. Vectors are float16 as stored; scores are recomputed in float64 from those, and equal scores are
ordered by chunk id, so that a ranking depends on the data alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from filelock import FileLock

from entropylong.errors import IndexFileError
from entropylong.hashing import file_sha256, xxhash64

MANIFEST = "manifest.json"
# More neighbours than asked for are fetched, so that ties at the cut are decided by chunk id and not by the heap.
TIE_MARGIN = 16

Ints = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class IndexHandle:
    """Where the files of an index are and how to trust them. Travels to executors."""

    directory: str
    fingerprint: str
    manifest_sha256: str
    node_cache: str


@dataclass(frozen=True)
class Hit:
    """A retrieved chunk: rank from 1, cosine score."""

    chunk_id: int
    rank: int
    score: float


def write_index(directory: Path, chunk_ids: Ints, doc_hashes: Ints, text_hashes: Ints, vectors: Halves) -> None:
    """Write the files of an exact index, atomically: built aside, renamed when whole.

    Args:
        chunk_ids: ascending, `[n]`.
        doc_hashes, text_hashes: xxhash64 of each chunk's doc_id and text `[n]`, to leave out own chunks and copies.
        vectors: L2-normalised `[n, d]`.
    """
    building = directory.with_name(directory.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), 65536):
        index.add(vectors[start : start + 65536].astype(np.float32))
    faiss.write_index(index, str(building / "vectors.faiss"))
    for name, array in (("chunk_ids", chunk_ids), ("doc_hashes", doc_hashes), ("text_hashes", text_hashes)):
        np.save(building / f"{name}.npy", array, allow_pickle=False)
    files = [{"path": p.name, "sha256": file_sha256(p), "bytes": p.stat().st_size} for p in sorted(building.iterdir())]
    manifest = {"kind": "flat", "n": len(chunk_ids), "d": int(vectors.shape[1]), "files": files}
    (building / MANIFEST).write_text(json.dumps(manifest, indent=1))
    shutil.rmtree(directory, ignore_errors=True)
    building.replace(directory)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        IndexFileError: it is missing or not JSON.
    """
    try:
        return dict(json.loads((directory / MANIFEST).read_text()))
    except (OSError, ValueError):
        raise IndexFileError(f"{directory}: no readable {MANIFEST}; run `entropylong run index` to build it again") from None


def node_copy(handle: IndexHandle) -> Path:
    """The index files on this node's disk, copied and verified once under a lock.

    Raises:
        IndexFileError: a file does not match the manifest.
    """
    target = Path(handle.node_cache) / "index" / f"{handle.fingerprint}-{handle.manifest_sha256[:16]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        building = Path(f"{target}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        source = Path(handle.directory)
        if file_sha256(source / MANIFEST) != handle.manifest_sha256:
            raise IndexFileError(f"{source / MANIFEST}: changed since the run started; build the index again")
        for entry in read_manifest(source)["files"]:
            copy = building / Path(entry["path"]).name  # never a path out of the folder
            shutil.copyfile(source / copy.name, copy)
            if file_sha256(copy) != entry["sha256"]:
                raise IndexFileError(
                    f"{source / copy.name}: does not match its manifest; remove {source} and run `entropylong run index`"
                )
        building.replace(target)
    return target


def _read_vectors(path: Path) -> Any:
    # A crafted header must not make it reserve more than the file can hold.
    faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise IndexFileError(f"{path}: not an index that can be read: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(index, faiss.IndexFlatIP):
        raise IndexFileError(f"{path}: is a {type(index).__name__}, not an exact index; build it again")
    return index


def _read_array(path: Path, length: int) -> Ints:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise IndexFileError(f"{path}: not a plain array: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.shape != (length,):
        raise IndexFileError(f"{path}: must hold {length} 64-bit numbers; build the index again")
    return array


class OpenIndex:
    """An index in a worker: vectors memory-mapped, ids and hashes beside them.

    Raises:
        IndexFileError: a file is not what an index of ours holds, whatever its manifest says of it.
    """

    def __init__(self, directory: Path) -> None:
        self._index = _read_vectors(directory / "vectors.faiss")
        self.chunk_ids = _read_array(directory / "chunk_ids.npy", self._index.ntotal)
        names = ("doc_hashes", "text_hashes")
        self._by = {name: _Lookup(_read_array(directory / f"{name}.npy", self._index.ntotal)) for name in names}

    def __len__(self) -> int:
        return len(self.chunk_ids)

    def excluded_rows(self, doc_id: str, text_hashes: Sequence[int]) -> Ints:
        """Rows that can never be candidates of a root: its own chunks, and chunks with the text of one of its chunks."""
        own = self._by["doc_hashes"].rows([xxhash64(doc_id)])
        rows: Ints = np.unique(np.concatenate([own, self._by["text_hashes"].rows(text_hashes)]))
        return rows

    def search(self, queries: Halves, top_k: int, excluded: Ints) -> list[list[Hit]]:
        """The top_k chunks by cosine for each query `[queries, d]`, the excluded rows left out."""
        parameters: Any = faiss.SearchParameters(sel=faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded)))  # type: ignore[call-arg]
        wanted = min(top_k + TIE_MARGIN, len(self))
        _, rows = self._index.search(queries.astype(np.float32), wanted, params=parameters)
        return [self._rank(query, found[found >= 0], top_k) for query, found in zip(queries, rows, strict=True)]

    def _rank(self, query: npt.NDArray[np.float16], rows: Ints, top_k: int) -> list[Hit]:
        if not len(rows):
            return []
        vectors = self._index.reconstruct_batch(rows).astype(np.float64)
        scores = (vectors * query.astype(np.float64)).sum(axis=1)
        ids = self.chunk_ids[rows]
        order = np.lexsort((ids, -scores))[:top_k]
        return [Hit(int(ids[i]), rank, float(scores[i])) for rank, i in enumerate(order.tolist(), start=1)]

    def random_chunks(self, count: int, salt: Sequence[str | int], excluded: set[int]) -> list[int]:
        """Up to `count` distinct chunk ids, chosen by hash of the salt; rows in `excluded` are passed over."""
        chosen: list[int] = []
        seen = set(excluded)
        for attempt in range(20 * count + 20):
            if len(chosen) == count:
                break
            row = xxhash64(*salt, attempt) % len(self)
            if row not in seen:
                seen.add(row)
                chosen.append(int(self.chunk_ids[row]))
        return chosen

    def rows_of(self, chunk_ids: Sequence[int]) -> set[int]:
        """Rows of known chunk ids."""
        return set(np.searchsorted(self.chunk_ids, np.array(chunk_ids, np.int64)).tolist())


class _Lookup:
    """Rows by hash value, through a sorted copy."""

    def __init__(self, hashes: Ints) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def rows(self, values: Sequence[int]) -> Ints:
        wanted = np.array(sorted(set(values)), np.int64)
        starts, ends = np.searchsorted(self._sorted, wanted, "left"), np.searchsorted(self._sorted, wanted, "right")
        spans = [self._order[a:b] for a, b in zip(starts, ends, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *spans])


_open: dict[str, OpenIndex] = {}


def open_index(handle: IndexHandle) -> OpenIndex:
    """The index of this worker process, opened at first use."""
    key = json.dumps(asdict(handle))
    if key not in _open:
        _open.clear()
        _open[key] = OpenIndex(node_copy(handle))
    return _open[key]
