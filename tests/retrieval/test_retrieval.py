"""The index against brute force, ids against Spark, files against tampering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from entropylong.core.handles import IndexHandle
from entropylong.errors import IndexFileError
from entropylong.retrieval.cells import Cells, train_cells
from entropylong.retrieval.grid import SCALE, to_grid
from entropylong.retrieval.index import OpenIndex, node_copy, ranked, seal, write_vectors
from entropylong.retrieval.partitioned import by_ranges, cut
from entropylong.retrieval.scoring import NO_ID, Nearest, Vectors, nearest
from entropylong.retrieval.sizing import BROADCAST, cell_count, choose_mode
from entropylong.retrieval.windows import window_ids
from entropylong.storage.array_files import MANIFEST, write_array
from entropylong.utils.hashing import file_sha256, xxhash64

pytestmark = pytest.mark.runtime


def unit_vectors(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    # Few distinct values, so that equal scores are common and their order is tested.
    raw = rng.integers(-2, 3, (n, d)).astype(np.float64) + 1e-9
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def make_index(folder: Path, ids: np.ndarray, hashes: np.ndarray, vectors: np.ndarray, cells: int = 1) -> Cells:
    """The files of broadcast mode, from arrays."""
    folder.mkdir()
    grid = to_grid(vectors)
    centroids = train_cells(grid, cells, seed=1)
    of_each = Cells(centroids).nearest(grid.astype(np.float32), 1)[:, 0]
    order = np.lexsort((ids, of_each))
    write_vectors(folder, len(ids), grid.shape[1], cells, [(of_each[order], ids[order], hashes[order], grid[order])])
    by_id = np.argsort(ids)
    arrays = {
        "centroids": centroids, "sizes": np.bincount(of_each, minlength=cells), "pool_ids": ids[by_id],
        "pool_hashes": hashes[by_id], "probes_needed": np.ones(1, np.int64),
    }  # fmt: skip
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)
    seal(folder, {"mode": BROADCAST, "n": len(ids), "d": grid.shape[1], "cells": cells})
    return Cells(centroids)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 90), top_k=st.integers(1, 8), cells=st.integers(1, 9), nprobe=st.integers(1, 4))
def test_search_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, top_k: int, cells: int, nprobe: int
) -> None:
    """Exactly, by whole numbers: the probed cells, ties by id, own texts and copies left out."""
    rng = np.random.default_rng(seed)
    cells = min(cells, n)
    ids = np.sort(rng.choice(10**9, n, replace=False)).astype(np.int64)
    vectors, hashes = unit_vectors(rng, n, 8), rng.integers(0, 20, n).astype(np.int64)
    folder = tmp_path_factory.mktemp("index") / "i"
    coarse = make_index(folder, ids, hashes, vectors, cells)
    own = [[3, 7, 99], [], list(range(15))]
    owners = rng.integers(0, 3, 12)
    queries = to_grid(unit_vectors(rng, 12, 8))
    neighbours = OpenIndex(folder).search(queries, owners, own, top_k, nprobe)
    grid = to_grid(vectors).astype(np.int64)
    of_each = coarse.nearest(to_grid(vectors).astype(np.float32), 1)[:, 0]
    for query, owner, ids_found, scores in zip(queries.astype(np.int64), owners, neighbours.ids, neighbours.scores, strict=True):
        probed = coarse.nearest(query[None].astype(np.float32), nprobe)[0]
        allowed = [i for i in range(n) if hashes[i] not in own[owner] and of_each[i] in probed]
        best = sorted(allowed, key=lambda i: (-int(grid[i] @ query), ids[i]))[:top_k]
        assert ids_found[: len(best)].tolist() == [int(ids[i]) for i in best]
        assert scores[: len(best)].tolist() == [int(grid[i] @ query) for i in best]
        assert (ids_found[len(best) :] == NO_ID).all()
        hits = ranked(scores.tolist(), ids_found.tolist())
        assert [h.rank for h in hits] == list(range(1, len(best) + 1))
        exact = [float(vectors[i].astype(np.float64) @ query / SCALE) for i in best]
        assert [h.score for h in hits] == pytest.approx(exact, abs=1e-3), "the grid is fine enough"


def test_scores_do_not_depend_on_how_a_search_is_cut() -> None:
    """At a real width: parts of vectors and of queries, in any order, give the very same."""
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(5000, 384))
    grid = to_grid((raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)).astype(np.float32)
    every = Vectors(grid, np.arange(5000), np.zeros(5000, np.int64))
    whole = nearest(grid[:64], every, 32)
    parts = Nearest.empty(64, 32)
    for start in (3000, 0, 1700, 4999):
        end = {0: 1700, 1700: 3000, 3000: 4999, 4999: 5000}[start]
        some = Vectors(*(array[start:end] for array in (every.values, every.ids, every.text_hashes)))
        for query in range(0, 64, 7):
            asking = np.arange(query, min(query + 7, 64))
            parts.merge(asking, nearest(grid[asking], some, 32))
    assert (parts.ids == whole.ids).all() and (parts.scores == whole.scores).all()


def test_vectors_that_are_not_normalised_are_refused() -> None:
    with pytest.raises(ValueError, match="L2-normalised"):
        to_grid(np.full((1, 8), 0.5, np.float16))


def test_random_controls_are_drawn_from_the_pool(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, hashes = np.arange(100, 140), np.repeat(np.arange(20), 2)
    make_index(tmp_path / "i", ids, hashes, unit_vectors(rng, 40, 8))
    index = OpenIndex(tmp_path / "i")
    controls = index.random_chunks(5, (1, "root"), {3, 4, 5}, {100, 101})
    assert controls == index.random_chunks(5, (1, "root"), {3, 4, 5}, {100, 101}) and len(set(controls)) == 5
    every = {i for salt in range(50) for i in index.random_chunks(5, (salt, "root"), {3, 4, 5}, {100, 101})}
    assert every == set(range(102, 106)) | set(range(112, 140))
    assert all(text_hash == hashes[chunk - 100] for chunk, text_hash in controls.items())
    assert index.random_chunks(5, (1, "root"), set(range(20)), set()) == {}


def test_ranks_of_cells() -> None:
    rng = np.random.default_rng(1)
    cells = Cells(to_grid(unit_vectors(rng, 12, 8)))
    queries = to_grid(unit_vectors(rng, 30, 8)).astype(np.float32)
    order = cells.nearest(queries, 12)
    which = rng.integers(0, 12, 30)
    assert cells.ranks(queries, which).tolist() == [row.tolist().index(cell) + 1 for row, cell in zip(order, which, strict=True)]


def test_work_of_a_range_is_cut_by_cost() -> None:
    """A cell with most vectors and most queries goes to several tasks: the slowest is at most twice the median."""
    sizes = np.array([300_000, 50, 2000, 0, 1500, 900, *[800] * 40])
    counts = np.array([200_000, 10, 30_000, 90, 0, 20_000, *[15_000] * 40])
    tasks, parts = cut(sizes, counts, first=7, cores=2)
    assert {p["cell_id"] for p in parts} == {7 + i for i in range(46) if sizes[i] and counts[i]}
    of_largest = [p for p in parts if p["cell_id"] == 7]
    assert len({(p["vector_part"], p["query_part"]) for p in of_largest}) == len(of_largest) == 5 * 4
    loads: dict[int, float] = {}
    for p in parts:
        place = p["cell_id"] - 7
        loads[p["task"]] = loads.get(p["task"], 0) + sizes[place] / p["vector_parts"] * counts[place] / p["query_parts"]
    assert len(loads) == tasks == 8 and max(loads.values()) <= 2 * float(np.median(list(loads.values())))
    assert cut(np.zeros(3, int), np.ones(3, int), 0, 2) == (1, [])


def test_ranges_hold_all_cells_once() -> None:
    sizes = np.array([5, 0, 0, 9, 1, 30, 2, 2, 2])
    ranges = by_ranges(sizes, 10)
    assert ranges == [(0, 3), (3, 5), (5, 6), (6, 9)]
    assert by_ranges(np.array([3]), 10) == [(0, 1)]


@pytest.mark.parametrize(
    ("setting", "n", "memory", "mode", "reason"),
    [
        ("auto", 10**6, 4 << 30, "broadcast", "broadcast, as 1,000,000 vectors take 0.78 GB, at most half of the 4 GB"),
        ("auto", 10**9, 64 << 30, "partitioned", "take 784 GB, more than half of the 69 GB of an executor"),
        ("partitioned", 10, 4 << 30, "partitioned", "as retrieval.mode says"),
    ],
)
def test_the_mode_is_chosen_by_size(setting: str, n: int, memory: int, mode: str, reason: str) -> None:
    chosen, why = choose_mode(setting, n, 384, memory)
    assert chosen == mode and reason in why


def test_cells_by_size() -> None:
    assert [cell_count(n, None) for n in (10, 999_999, 10**6, 2 * 10**6, 10**9)] == [1, 1, 2048, 2048, 65536]
    assert cell_count(10, 4) == 4 and cell_count(3, 4) == 3


def test_index_files_are_verified(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "index"
    make_index(folder, np.arange(5), np.ones(5, np.int64), unit_vectors(rng, 5, 8))
    handle = IndexHandle(str(folder), "abc", file_sha256(folder / MANIFEST), str(tmp_path / "node"))
    assert len(OpenIndex(node_copy(handle)).cells) == 1
    with (folder / "vectors.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(IndexFileError, match="does not match its manifest"):
        node_copy(IndexHandle(handle.directory, "other", handle.manifest_sha256, handle.node_cache))
    (folder / "vectors.npy").unlink()
    with pytest.raises(IndexFileError, match=r"vectors.npy: is gone"):
        node_copy(IndexHandle(handle.directory, "another", handle.manifest_sha256, handle.node_cache))
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(IndexFileError, match="changed since"):
        node_copy(IndexHandle(handle.directory, "third", handle.manifest_sha256, handle.node_cache))


def _pickle(folder: Path) -> None:
    np.save(folder / "chunk_ids.npy", np.array([{"os": "system"}] * 5, object), allow_pickle=True)


def _huge(folder: Path) -> None:
    # The header's shape, raised beyond what the file can hold.
    raw = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(raw.replace(b"(5, 8), }", b"(5, 8000000), }").replace(b" " * 8, b" ", 1))


def _other_kind(folder: Path) -> None:
    np.save(folder / "vectors.npy", np.zeros((5, 8), np.float64))


def _truncated(folder: Path) -> None:
    raw = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(raw[: len(raw) // 2])


def _shorter(folder: Path) -> None:
    np.save(folder / "text_hashes.npy", np.ones(4, np.int64))


def _offsets(folder: Path) -> None:
    np.save(folder / "offsets.npy", np.array([0, 10**12]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickle, "chunk_ids.npy: not a plain array"),
        (_huge, "vectors.npy"),
        (_other_kind, "vectors.npy: must hold 5 x 8 numbers of type int16"),
        (_truncated, "vectors.npy: not a plain array"),
        (_shorter, "text_hashes.npy: must hold 5"),
        (_offsets, "offsets.npy: does not cut 5 vectors"),
    ],
)
def test_crafted_index_files_are_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """Even where the manifest was made to fit them: a hash says who wrote a file, not that it is harmless."""
    folder, ones = tmp_path / "index", np.ones(5, np.int64)
    make_index(folder, np.arange(5), ones, unit_vectors(np.random.default_rng(0), 5, 8))
    damage(folder)
    with pytest.raises(IndexFileError, match=message):
        OpenIndex(folder)


def test_hash_equals_sparks(spark: SparkSession) -> None:
    values = [("", 0), ("abc", 1), ("é🙂" * 40, -5), ("x" * 1000, 2**63 - 1), ("y", -(2**63))]
    from entropylong.storage.frames import local_frame
    from entropylong.storage.schemas import struct_of

    frame = local_frame(spark, [{"s": s, "n": n} for s, n in values], struct_of("s STRING, n BIGINT"))
    rows = frame.select("s", "n", F.xxhash64("s").alias("a"), F.xxhash64("s", "n").alias("b"), F.xxhash64("n", "s").alias("c"))
    for row in rows.collect():
        assert (row.a, row.b, row.c) == (xxhash64(row.s), xxhash64(row.s, row.n), xxhash64(row.n, row.s))


@given(n=st.integers(1, 60), w=st.integers(1, 20), data=st.data())
def test_windows(n: int, w: int, data: st.DataObject) -> None:
    t = data.draw(st.integers(0, n - 1))
    ids = list(range(n))
    assert window_ids(ids, t, window=w, side="both") == [i for i in ids if t - w <= i < t + w]
    assert window_ids(ids, t, window=w, side="left") == [i for i in ids if t - w <= i < t]
