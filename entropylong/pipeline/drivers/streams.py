"""Drive a row-wise stage as a stream: Structured Streaming with `availableNow`, one commit per micro-batch.

What a stream gives is new as long as its checkpoint goes on where the output ends. Then no committed key is read. In all other
cases (a checkpoint that is lost, cut short or of another choice, a pass that did not end well, an input that was not only added
to) each batch is compared with the output by key.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.streaming.query import StreamingQuery

from entropylong.core.context import Frames
from entropylong.core.stage import StreamStage
from entropylong.errors import EntropyLongError, TableError
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.pipeline.reached import checkpoint_of, goes_on, input_now, note
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.store import root_cause
from entropylong.storage.workspace import REACHED
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress

logger = logging.getLogger(__name__)


def drive(state: PipelineState, stage: StreamStage, artifact: Artifact, progress: StepProgress) -> None:
    """Read the rows that arrived since the checkpoint, and commit what they give, some files at a time."""
    feeder, value = stage.reads[0], artifact.fingerprint
    checkpoint = checkpoint_of(state, stage, value)
    writer = state.store.writer(stage.writes, value, stage.name)
    has_checkpoint, input_then = checkpoint.is_dir(), input_now(state, stage)
    compares = writer.may_have_rows and goes_on(state, stage, value) is None
    # It holds between passes alone: of one that is broken off nothing is known.
    (checkpoint / REACHED).unlink(missing_ok=True)
    is_sound = True
    try:
        _stream(state, stage, writer, checkpoint, progress, compares)
    except _CheckpointUselessError as error:
        if not has_checkpoint:
            raise TableError(f"{stage.name}: {error}") from error
        is_sound = False
    if has_checkpoint and progress.left > 0:
        # The output is the truth, the checkpoint a cache: cut short, of a table that was made anew, or ahead of an output that
        # is gone. Without it all is read again, and what is committed is left out by its key.
        logger.info("%s: its checkpoint does not fit the tables; %s is read from the start", stage.name, feeder)
        shutil.rmtree(checkpoint)
        try:
            _stream(state, stage, writer, checkpoint, progress, compares=True)
        except _CheckpointUselessError as error:
            raise TableError(f"{stage.name}: {error}") from error
        # All that there is was read and compared, whatever was counted before.
        is_sound = True
        progress.settle()
    if is_sound:
        note(state, stage, value, input_then)


class _CheckpointUselessError(Exception):
    """A stream failed by itself, not in the work on a batch."""


def _stream(
    state: PipelineState, stage: StreamStage, writer: Writer, checkpoint: Path, progress: StepProgress, compares: bool
) -> None:
    feeder = stage.reads[0]
    others = {name: frame for name, frame in state.frames(stage).items() if name != feeder}
    done = stage.keys_done(state.context, state.rows(stage.writes)) if compares else None
    failure: list[BaseException] = []

    def commit(batch: DataFrame, _: int) -> None:
        try:
            rows = stage.driving(state.context, {feeder: batch, **others})
            if done is not None:
                rows = stage.subtract(state.context, rows, done)
            # It is counted, spread over tasks, and built from.
            rows = rows.persist(StorageLevel.DISK_ONLY)
            try:
                _append(state, stage, writer, rows, others, progress)
            finally:
                rows.unpersist()
        except BaseException as error:
            failure.append(error)
            raise

    source = state.store.read_stream(feeder, state.fingerprint(feeder), stage.batch_bytes(state.context))
    query = source.writeStream.foreachBatch(commit).option("checkpointLocation", str(checkpoint))
    running: StreamingQuery | None = None
    try:
        running = query.trigger(availableNow=True).start()
        running.awaitTermination()
    except (PySparkException, Py4JJavaError) as error:
        if not failure:
            raise _CheckpointUselessError(root_cause(error)) from error
        if isinstance(failure[0], EntropyLongError):
            raise failure[0] from error
        raise TableError(f"{stage.name}: {root_cause(failure[0])}") from error
    finally:
        if running is not None:
            running.stop()  # whoever breaks off here leaves no batch that is still at work


def _append(
    state: PipelineState, stage: StreamStage, writer: Writer, rows: DataFrame, others: Frames, progress: StepProgress
) -> None:
    if size := stage.keys_todo(rows).count():
        progress.batch(size)
        append_or_isolate(
            state, stage, writer, rows, lambda part: stage.build(state.context.sized(size), {stage.reads[0]: part, **others})
        )
        progress.commit()
