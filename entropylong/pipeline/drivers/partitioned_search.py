"""Drive a search: in batches of roots over a broadcast index, or range by range of cells, each range one commit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.stage import UnitStage
from entropylong.errors import RecallTooLowError
from entropylong.pipeline.drivers import units
from entropylong.pipeline.drivers.units import commit_units, left_of
from entropylong.pipeline.state import PipelineState
from entropylong.retrieval.index import INDEX_FILES
from entropylong.retrieval.partitioned import by_ranges, search_range
from entropylong.retrieval.scoring import Ints
from entropylong.retrieval.stage import MERGE, ROUTE, is_partitioned
from entropylong.storage.array_files import read_array
from entropylong.storage.artifacts import Artifact
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress

logger = logging.getLogger(__name__)


def drive(state: PipelineState, stage: UnitStage, artifact: Artifact, progress: StepProgress) -> None:
    """Search for the queries that have no candidates yet.

    Raises:
        RecallTooLowError: a search would miss more than the config allows.
    """
    index = state.context.fingerprints["index"]
    check_recall(state, index)
    if is_partitioned(state, index):
        _drive_partitioned(state, stage, artifact, progress)
    else:
        units.drive(state, stage, artifact, progress)


def recall(directory: Path, nprobe: int) -> float:
    """Share of the true neighbours that the nearest `nprobe` cells hold, as measured when the index was built."""
    needed = read_array(directory / "probes_needed.npy", INDEX_FILES, np.int64, None)
    return float((needed <= nprobe).mean())


def check_recall(state: PipelineState, value: str) -> None:
    """Raise RecallTooLowError where a search would miss more than the config allows."""
    retrieval, directory = state.config.retrieval, state.workspace.index(value)
    if (share := recall(directory, retrieval.nprobe)) < retrieval.min_recall:
        needed = read_array(directory / "probes_needed.npy", INDEX_FILES, np.int64, None)
        enough = int(np.quantile(needed, retrieval.min_recall, method="higher"))
        raise RecallTooLowError(
            f"index: recall@{retrieval.top_k} is {share:.3f} at retrieval.nprobe {retrieval.nprobe}, below retrieval.min_recall "
            f"{retrieval.min_recall}; nprobe {enough} would reach it, or lower retrieval.min_recall to go on with less"
        )


def _drive_partitioned(state: PipelineState, stage: UnitStage, artifact: Artifact, progress: StepProgress) -> None:
    """Route the queries that have no candidates yet, search range after range, merge. Each is resumed by its rows."""
    value, index = artifact.fingerprint, state.context.fingerprints["index"]
    frames = state.frames(stage)
    writers = {table: state.store.writer(table, value, stage.name) for table in (*stage.beside, stage.writes)}
    todo = left_of(state, stage, value, stage.driving(state.context, frames))
    commit_units(state, ROUTE, writers[ROUTE.writes], frames, left_of(state, ROUTE, value, todo))
    queries = state.store.read_ok("query_cells", value).join(todo.select(*stage.key), list(stage.key), how="left_semi")
    vectors = state.store.read_ok("index_cells", index)
    sizes = read_array(state.workspace.index(index) / "sizes.npy", INDEX_FILES, np.int64, None)
    ranges = by_ranges(sizes, state.config.run.vectors_per_unit)
    for number, (first, end) in enumerate(ranges, start=1):
        _search_range(state, writers["partial_candidates"], value, queries, vectors, first, np.asarray(sizes[first:end]))
        if len(ranges) > 1:
            logger.info(f"search: range {number} of {len(ranges)} (cells {first} to {end - 1}), {progress.seconds:.0f} s")
    inputs = {**frames, "partial_candidates": state.store.read_ok("partial_candidates", value)}
    commit_units(state, MERGE, writers[stage.writes], inputs, todo, progress)
    for table in reversed(stage.beside):
        state.store.drop(table, value)


def _search_range(
    state: PipelineState, writer: Writer, value: str, queries: DataFrame, vectors: DataFrame, first: int, sizes: Ints
) -> None:
    inside = (F.col("cell_id") >= first) & (F.col("cell_id") < first + len(sizes))
    done = state.store.read("partial_candidates", value).where(F.col("first_cell") == first).select("root_id", "position")
    asking = queries.where(F.exists("cells", lambda cell: (cell >= first) & (cell < first + len(sizes))))
    left = asking.join(done, ["root_id", "position"], how="left_anti")
    if left.head(1):
        writer.append(search_range(state.context, left, vectors.where(inside), first, sizes))
