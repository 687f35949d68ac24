"""Drive a row-wise stage in batches of roots: one commit per batch."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.context import Frames
from entropylong.core.stage import RowStage
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress


def drive(state: PipelineState, stage: RowStage, artifact: Artifact, progress: StepProgress) -> None:
    """Do what is left of a step."""
    value, frames = artifact.fingerprint, state.frames(stage)
    writer = state.store.writer(stage.writes, value, stage.name)
    todo = left_of(state, stage, value, frames) if writer.may_have_rows else stage.driving(state.context, frames)
    commit_units(state, stage, writer, frames, todo, progress)


def left_of(state: PipelineState, stage: RowStage, value: str, frames: Frames, rows: DataFrame | None = None) -> DataFrame:
    """Select the driving rows (or those given) whose keys are not in the step's output."""
    done = stage.keys_done(state.context, state.store.read(stage.writes, value)).select(*stage.key)
    driving = stage.driving(state.context, frames) if rows is None else rows
    return driving.join(done, list(stage.key), how="left_anti")


def commit_units(
    state: PipelineState, stage: RowStage, writer: Writer, frames: Frames, todo: DataFrame, progress: StepProgress | None = None
) -> None:
    """Build and append what is to do, some roots at a time, one commit each."""
    for rows, size in _units(state, stage, todo, progress):
        if progress:
            progress.batch(size)

        def build(part: DataFrame, size: int = size) -> DataFrame:
            return stage.build(state.context.sized(size), {**frames, stage.reads[0]: part})

        append_or_isolate(state, stage, writer, rows, build)
        if progress:
            progress.commit()


def _units(state: PipelineState, stage: RowStage, todo: DataFrame, progress: StepProgress | None) -> list[tuple[DataFrame, int]]:
    """Cut driving rows by their roots: rows and number of keys of each unit."""
    most = state.config.run.roots_per_unit
    # A root has a key at least: so few keys are one unit, whoever's they are.
    if progress and 0 < progress.left <= most:
        return [(todo, progress.left)]
    units = -(-todo.select("root_id").distinct().count() // most)
    unit_of = F.pmod(F.xxhash64("root_id"), F.lit(units))
    sizes = stage.keys_todo(todo).groupBy(unit_of.alias("unit")).count().collect() if units else []
    return [(todo.where(unit_of == unit), int(size)) for unit, size in sorted(map(tuple, sizes))]
