"""The index against brute force, ids against Spark, files against tampering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from entropylong.errors import IndexFileError
from entropylong.hashing import file_sha256, xxhash64
from entropylong.retrieval.index import MANIFEST, IndexHandle, OpenIndex, node_copy, write_index
from entropylong.retrieval.windows import window_ids


def unit_vectors(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    # Few distinct values, so that equal scores are common and their order is tested.
    raw = rng.integers(-2, 3, (n, d)).astype(np.float64) + 1e-9
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), top_k=st.integers(1, 8))
def test_search_equals_brute_force(tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10**9, n, replace=False)).astype(np.int64)
    vectors = unit_vectors(rng, n, 8)
    docs = rng.integers(0, 5, n)
    texts = rng.integers(0, 20, n).astype(np.int64)
    folder = tmp_path_factory.mktemp("index") / "i"
    write_index(folder, ids, np.array([xxhash64(f"d{d}") for d in docs], np.int64), texts, vectors)
    index = OpenIndex(folder)
    own_texts = [3, 7, 99]
    excluded = index.excluded_rows("d2", own_texts)
    assert excluded.tolist() == [i for i in range(n) if docs[i] == 2 or texts[i] in own_texts]
    queries = unit_vectors(rng, 4, 8)
    allowed = [i for i in range(n) if i not in set(excluded.tolist())]
    for query, hits in zip(queries, index.search(queries, top_k, excluded), strict=True):
        scores = {i: float(vectors[i].astype(np.float64) @ query.astype(np.float64)) for i in allowed}
        best = sorted(allowed, key=lambda i: (-round(scores[i], 12), ids[i]))[:top_k]
        assert [h.rank for h in hits] == list(range(1, len(best) + 1))
        assert [round(h.score, 9) for h in hits] == [round(scores[i], 9) for i in best]
        if len(allowed) <= top_k + 16:  # with more ties at the cut than the margin any of them is as near
            assert [h.chunk_id for h in hits] == [int(ids[i]) for i in best]
    drawn = index.random_chunks(5, (1, "root"), set(excluded.tolist()))
    assert drawn == index.random_chunks(5, (1, "root"), set(excluded.tolist()))
    assert len(drawn) == len(set(drawn)) and index.rows_of(drawn).isdisjoint(excluded.tolist())
    assert len(drawn) == min(5, len(allowed)) or len(allowed) < 5 or len(drawn) >= 3


def test_index_files_are_verified(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "index"
    ones = np.ones(5, np.int64)
    write_index(folder, np.arange(5), ones, ones, unit_vectors(rng, 5, 8))
    handle = IndexHandle(str(folder), "abc", file_sha256(folder / MANIFEST), str(tmp_path / "node"))
    assert len(OpenIndex(node_copy(handle))) == 5
    with (folder / "vectors.faiss").open("ab") as file:
        file.write(b"x")
    with pytest.raises(IndexFileError, match="does not match its manifest"):
        node_copy(IndexHandle(handle.directory, "other", handle.manifest_sha256, handle.node_cache))
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(IndexFileError, match="changed since"):
        node_copy(IndexHandle(handle.directory, "third", handle.manifest_sha256, handle.node_cache))


def _pickle(folder: Path) -> None:
    np.save(folder / "chunk_ids.npy", np.array([{"os": "system"}] * 5, object), allow_pickle=True)


def _huge(folder: Path) -> None:
    # The header's number of floats, raised beyond what the file can hold.
    raw = bytearray((folder / "vectors.faiss").read_bytes())
    at = raw.index((5 * 8).to_bytes(8, "little"))
    raw[at : at + 8] = (2**39).to_bytes(8, "little")
    (folder / "vectors.faiss").write_bytes(raw)


def _other_kind(folder: Path) -> None:
    faiss.write_index(faiss.IndexLSH(8, 16), str(folder / "vectors.faiss"))


def _truncated(folder: Path) -> None:
    raw = (folder / "vectors.faiss").read_bytes()
    (folder / "vectors.faiss").write_bytes(raw[: len(raw) // 2])


def _shorter(folder: Path) -> None:
    np.save(folder / "text_hashes.npy", np.ones(4, np.int64))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_pickle, "chunk_ids.npy: not a plain array"),
        (_huge, "not an index that can be read"),
        (_other_kind, "IndexLSH, not an exact index"),
        (_truncated, "not an index that can be read"),
        (_shorter, "text_hashes.npy: must hold 5"),
    ],
)
def test_crafted_index_files_are_refused(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    """Even where the manifest was made to fit them: a hash says who wrote a file, not that it is harmless."""
    folder, ones = tmp_path / "index", np.ones(5, np.int64)
    write_index(folder, np.arange(5), ones, ones, unit_vectors(np.random.default_rng(0), 5, 8))
    damage(folder)
    with pytest.raises(IndexFileError, match=said):
        OpenIndex(folder)


def test_hash_equals_sparks(spark: SparkSession) -> None:
    values = [("", 0), ("abc", 1), ("é🙂" * 40, -5), ("x" * 1000, 2**63 - 1), ("y", -(2**63))]
    from entropylong.tables.schemas import struct_of
    from entropylong.udf import local_frame

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
