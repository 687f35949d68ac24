"""The index by cells in Spark: partitioned search against broadcast, hit for hit; recall; resumed; modes that change."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.errors import RecallTooLowError
from entropylong.pipeline.drivers import index
from entropylong.pipeline.runner import Runner
from entropylong.retrieval.grid import SCALE, from_bytes, to_grid
from entropylong.retrieval.index import INDEX_FILES
from entropylong.storage.array_files import read_manifest
from entropylong.storage.writer import Writer
from tests.conftest import MakeConfig, OpenRunner, captured_messages, rows_of

CELLS = ["retrieval.cells=6", "retrieval.nprobe=2", "retrieval.min_recall=0", "run.vectors_per_unit=18", "run.roots_per_unit=6"]
SEARCH = ["index", "search"]


ROW = ("root_id", "position", "hits", "outcome")


@dataclass(frozen=True)
class Search:
    """A partitioned search that nothing stopped: where, what it found, and what it told."""

    workspace: Path
    index: str
    candidates: list[tuple[object, ...]]
    messages: list[str]


@pytest.fixture(scope="module")
def searched(
    finished: Path, spark: SparkSession, make_config: MakeConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Search:
    workspace = Path(shutil.copytree(finished, tmp_path_factory.mktemp("searched") / "workspace"))
    runner = Runner.open(make_config(workspace, corpus, *CELLS, "retrieval.mode=partitioned"), spark)
    with captured_messages() as texts:
        runner.run(SEARCH)
    return Search(workspace, runner.state.fingerprint("index") or "-", rows_of(runner, "candidates", ROW), texts)


def hits(workspace: Path, open_runner: OpenRunner, *keys: str) -> list[tuple[object, ...]]:
    runner = open_runner(workspace, *CELLS, *keys)
    runner.run(SEARCH)
    return rows_of(runner, "candidates", ROW)


def test_partitioned_equals_broadcast_hit_for_hit(
    searched: Search, finished: Path, open_runner: OpenRunner, tmp_path: Path
) -> None:
    """And both equal brute force over the probed cells; scratch tables are left empty."""
    workspace, candidates = Path(shutil.copytree(searched.workspace, tmp_path / "workspace")), searched.candidates
    assert any("partitioned, as retrieval.mode says" in line for line in searched.messages)
    assert any("range 2 of" in line for line in searched.messages), "several ranges, or the merge is not tested"
    runner = open_runner(workspace, *CELLS, "retrieval.mode=partitioned")
    for scratch in ("query_cells", "partial_candidates"):
        assert runner.state.store.read_all(scratch).count() == 0
    again = open_runner(workspace, *CELLS, "retrieval.mode=broadcast")
    assert again.state.fingerprint("candidates") == runner.state.fingerprint("candidates"), "a mode changes no result"
    again.state.store.drop("candidates", again.state.fingerprint("candidates") or "-")
    # Of the index: the files that partitioned mode does not need.
    assert hits(workspace, open_runner, "retrieval.mode=broadcast") == candidates and len(candidates) > 20
    exact = rows_of(open_runner(finished), "candidates", ["root_id", "position", "hits"])
    assert [row[:3] for row in candidates] != exact, "two of six cells must miss something, or nothing was partitioned"
    _compare_with_brute_force(runner, candidates)


def _compare_with_brute_force(runner: object, candidates: list[tuple[object, ...]]) -> None:
    store, fingerprints = runner.state.store, runner.state.fingerprint  # type: ignore[attr-defined]
    cells = store.read_ok("index_cells", fingerprints("index")).toPandas()
    chunks = store.read_ok("chunks", fingerprints("chunks")).toPandas()
    queries = store.read_ok("query_vectors", fingerprints("query_vectors")).toPandas()
    centroids = np.load(runner.state.workspace.index(fingerprints("index")) / "centroids.npy").astype(np.int64)  # type: ignore[attr-defined]
    values = to_grid(from_bytes(_vectors(runner, cells))).astype(np.int64)
    own = {doc: set(rows.text_hash) for doc, rows in chunks.groupby("doc_id")}
    grid = dict(zip(zip(queries.root_id, queries.position, strict=True), queries.vector, strict=True))
    for root, position, listed, _ in candidates:
        query = to_grid(from_bytes([grid[root, position]])).astype(np.int64)[0]
        probed = np.lexsort((np.arange(len(centroids)), -(centroids @ query)))[:2]
        allowed = [i for i in range(len(cells)) if cells.cell_id[i] in probed and cells.text_hash[i] not in own[root]]
        best = sorted(allowed, key=lambda i: (-int(values[i] @ query), cells.chunk_id[i]))[:3]
        assert [h.chunk_id for h in listed or ()] == [int(cells.chunk_id[i]) for i in best]  # type: ignore[attr-defined]
        scores = [int(values[i] @ query) / SCALE**2 for i in best]
        assert [h.score for h in listed or ()] == pytest.approx(scores, abs=1e-6)  # type: ignore[attr-defined]


def _vectors(runner: object, cells: object) -> list[bytes]:
    frame = runner.state.store.read_ok("chunk_vectors", runner.state.fingerprint("chunk_vectors")).toPandas()  # type: ignore[attr-defined]
    by_id = dict(zip(frame.chunk_id, frame.vector, strict=True))
    return [by_id[i] for i in cells.chunk_id]  # type: ignore[attr-defined]


class Killed(Exception):
    """Stands for a driver that dies after a commit."""


def test_resumed_after_any_commit(searched: Search, copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in each of its tables in turn: what was committed is kept, what was not is done, and nothing twice."""
    append, tables, deadly = Writer.append, list[str](), ""
    # Cells are of the machine's threads: trained once, or they could differ.
    (folder := copied / "index" / searched.index).mkdir()
    shutil.copy(searched.workspace / "index" / searched.index / "centroids.npy", folder)

    def append_and_die(self: Writer, frame: DataFrame) -> None:
        append(self, frame)
        tables.append(self.table)
        if tables.count(deadly) == 2 and self.table == deadly:
            raise Killed

    for deadly in ("index_cells", "query_cells", "partial_candidates", "candidates"):
        tables.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "append", append_and_die)
            with pytest.raises(Killed):
                hits(copied, open_runner, "retrieval.mode=partitioned")
        assert tables.count(deadly) == 2
    runner = open_runner(copied, *CELLS, "retrieval.mode=partitioned")
    runner.run(SEARCH)
    candidates = rows_of(runner, "candidates", ROW)
    assert len({row[:2] for row in candidates}) == len(candidates)
    index = runner.state.fingerprint("index") or "-"
    chunks = [row.chunk_id for row in runner.state.store.read("index_cells", index).select("chunk_id").collect()]
    assert len(chunks) == len(set(chunks)) == read_manifest(runner.state.workspace.index(index), INDEX_FILES)["n"]
    assert index == searched.index and candidates == searched.candidates, "as without a kill"


def test_recall_is_measured_and_a_low_one_stops_the_run(copied: Path, open_runner: OpenRunner, messages: list[str]) -> None:
    low = [key for key in CELLS if key.startswith("retrieval.") and "recall" not in key]
    with pytest.raises(
        RecallTooLowError, match=r"recall@3 is 0\.\d+ at retrieval.nprobe 1, below retrieval.min_recall 0.95; nprobe \d"
    ):
        open_runner(copied, *low, "retrieval.nprobe=1").run(["index"])
    runner = open_runner(copied, *low, "retrieval.nprobe=6")
    runner.run(SEARCH)
    assert any("recall@3 1.000 at nprobe 6" in line for line in messages)
    with pytest.raises(RecallTooLowError, match="nprobe 1,"):
        open_runner(copied, *low, "retrieval.nprobe=1").run(["search"])
    # The measure itself, against a search of everything.
    directory = runner.state.workspace.index(runner.state.fingerprint("index") or "-")
    needed = np.load(directory / "probes_needed.npy")
    cells = runner.state.store.read_ok("index_cells", runner.state.fingerprint("index") or "-").toPandas().sort_values("chunk_id")
    vectors = np.frombuffer(b"".join(cells.vector), "<i2").reshape(len(cells), -1).astype(np.int64)
    centroids = np.load(directory / "centroids.npy").astype(np.int64)
    hashes, ids, own_cell = (cells[name].to_numpy() for name in ("text_hash", "chunk_id", "cell_id"))
    ranks = []
    for query, text in zip(vectors[: index.build.RECALL_QUERIES], hashes, strict=False):
        others = np.flatnonzero(hashes != text)
        best = sorted(others, key=lambda i: (-int(vectors[i] @ query), ids[i]))[:3]
        order = np.lexsort((np.arange(len(centroids)), -(centroids @ query))).tolist()
        ranks += [order.index(own_cell[i]) + 1 for i in best]
    assert sorted(needed.tolist()) == sorted(ranks)


def test_one_cell_is_exact_and_needs_no_key(copied: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    facts = read_manifest(runner.state.workspace.index(runner.state.fingerprint("index") or "-"), INDEX_FILES)
    assert facts["cells"] == 1 and facts["mode"] == "broadcast"
    assert runner.state.store.read_all("index_cells").where(F.col("cell_id") != 0).count() == 0
