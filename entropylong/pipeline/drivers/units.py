"""Drive a row-wise stage in units of roots: one commit each.

What the units read is joined once a run. Where there are several, it is written aside, cut by unit, and each unit reads its own
part: none reads a table, so the corpus is read once a stage however many units there are.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.batches import MOST_UNITS
from entropylong.core.context import TASKS_A_CORE, Frames
from entropylong.core.stage import RowStage, UnitStage
from entropylong.pipeline.drivers.aside import aside, of_part
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress


def drive(state: PipelineState, stage: UnitStage, artifact: Artifact, progress: StepProgress) -> None:
    """Do what is left of a step."""
    value, frames = artifact.fingerprint, state.frames(stage)
    writer = state.store.writer(stage.writes, value, stage.name)
    todo = stage.driving(state.context, frames)
    commit_units(state, stage, writer, frames, left_of(state, stage, value, todo) if writer.may_have_rows else todo, progress)


def left_of(state: PipelineState, stage: RowStage, value: str, driving: DataFrame) -> DataFrame:
    """Leave out the driving rows whose keys are in the step's output."""
    return stage.subtract(state.context, driving, stage.keys_done(state.context, state.store.read(stage.writes, value)))


def commit_units(
    state: PipelineState, stage: UnitStage, writer: Writer, frames: Frames, todo: DataFrame, progress: StepProgress | None = None
) -> None:
    """Build and append what is to do, some roots at a time, one commit each."""
    units = _count_units(state, stage, todo, progress)
    inputs = stage.inputs(state.context, frames, todo)
    if units == 1:
        size = progress.left if progress else int(inputs[stage.reads[0]].agg(F.sum(stage.n_keys())).collect()[0][0])
        _commit(state, stage, writer, inputs, size, progress)
    if units < 2:
        return
    with aside(state, stage.writes) as folder:
        parts = {name: folder.cut(name, _numbered(state, stage, frame, units), "unit") for name, frame in inputs.items()}
        keys = parts[stage.reads[0]].groupBy("unit").agg(F.sum(stage.n_keys())).collect()
        for unit, size in sorted((row[0], int(row[1])) for row in keys):
            _commit(state, stage, writer, {name: of_part(part, "unit", unit) for name, part in parts.items()}, size, progress)


def _count_units(state: PipelineState, stage: UnitStage, todo: DataFrame, progress: StepProgress | None) -> int:
    most = state.config.run.roots_per_unit
    # A root has a key at least: so few keys are one unit, whoever's they are.
    if not stage.cut_by or (progress and 0 < progress.left <= most):
        return 1
    return min(-(-todo.select(stage.cut_by).distinct().count() // most), MOST_UNITS)


def _commit(
    state: PipelineState, stage: UnitStage, writer: Writer, inputs: Frames, size: int, progress: StepProgress | None
) -> None:
    if progress:
        progress.batch(size)
    context = state.context.sized(size)
    try:
        append_or_isolate(
            state, stage, writer, inputs[stage.reads[0]], lambda part: stage.build(context, {**inputs, stage.reads[0]: part})
        )
    finally:
        context.release()
    if progress:
        progress.commit()


def _numbered(state: PipelineState, stage: UnitStage, frame: DataFrame, units: int) -> DataFrame:
    """Rows with the number of their unit, in so many tasks that every core has one at least; a task holds rows of one unit."""
    slices = -(-TASKS_A_CORE * state.context.cores // units)
    place = F.pmod(F.xxhash64(stage.cut_by), F.lit(units * slices))
    placed = frame.withColumn("place", place).repartition(units * slices, "place")
    return placed.withColumn("unit", F.floor(F.col("place") / slices).cast("int")).drop("place")
