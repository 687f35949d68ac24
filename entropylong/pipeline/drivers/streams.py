"""Drive a row-wise stage as a stream: Structured Streaming with `availableNow`, one commit per micro-batch.

What a stream gives is new as long as its checkpoint goes on where the output ends. Then no committed key is read. In all other
cases (a checkpoint that is lost, cut short or of another choice, a pass that did not end well, an input that was not only added
to) each batch is compared with the output by key.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from entropylong.core.context import Frames
from entropylong.core.stage import RowStage
from entropylong.errors import EntropyLongError, TableError
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.store import root_cause
from entropylong.storage.workspace import REACHED
from entropylong.storage.writer import Writer
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.utils.progress import StepProgress

logger = logging.getLogger(__name__)

# Operations, with their modes, that add rows or change none.
_ADDING = {("WRITE", "Append"), ("OPTIMIZE", None), ("VACUUM START", None), ("VACUUM END", None)}


def drive(state: PipelineState, stage: RowStage, artifact: Artifact, progress: StepProgress) -> None:
    """Read the rows that arrived since the checkpoint, and commit what they give, some files at a time."""
    # A checkpoint belongs to all that decides which rows its stream gives: the feeder's fingerprint (gains are shared by
    # several plans of pairs) and the stage's own choice. Another choice reads from the start and is compared by key.
    feeder, choice = stage.reads[0], digest([state.fingerprint(stage.reads[0]), stage.choice(state.context)])
    checkpoint = state.workspace.checkpoint(stage.writes, artifact.fingerprint, choice)
    writer = state.store.writer(stage.writes, artifact.fingerprint, stage.name)
    has_checkpoint, input_version = checkpoint.is_dir(), state.store.version(feeder)
    compares = writer.may_have_rows and not _goes_on(state, feeder, writer, checkpoint)
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
        is_sound = True
    if is_sound:
        _note_reached(checkpoint, writer, input_version)


def _note_reached(checkpoint: Path, writer: Writer, input_version: int) -> None:
    reached = {"last": writer.last, "input_version": input_version, "batches": _batches(checkpoint)}
    try:
        write_whole(checkpoint / REACHED, json.dumps(reached))
    except OSError as error:
        # Without it the next pass is compared by key.
        logger.debug("%s: not written: %s", checkpoint / REACHED, error.strerror)


def _batches(checkpoint: Path) -> list[int]:
    """The newest batch that was planned, and the newest that was done."""
    numbers = [[int(file.name) for file in (checkpoint / kind).glob("*") if file.name.isdigit()] for kind in ("offsets", "commits")]
    return [max(of_kind, default=-1) for of_kind in numbers]


def _goes_on(state: PipelineState, feeder: str, writer: Writer, checkpoint: Path) -> bool:
    """Whether output and checkpoint are as their last pass left them, and rows were only added to the input since."""
    try:
        reached = json.loads((checkpoint / REACHED).read_text())
        last, input_version, batches = str(reached["last"]), int(reached["input_version"]), reached["batches"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    since = state.store.version(feeder) - input_version
    if last != writer.last or batches != _batches(checkpoint) or since < 0:
        return False
    # One more than are expected: where others came in between, the newest do not reach back to the version that was noted.
    commits = state.store.history(feeder, since + 1).select("version", "operation", F.col("operationParameters")["mode"]).collect()
    newer = {(operation, mode) for version, operation, mode in commits if version > input_version}
    return min(commit[0] for commit in commits) <= input_version and newer <= _ADDING


class _CheckpointUselessError(Exception):
    """A stream failed by itself, not in the work on a batch."""


def _stream(
    state: PipelineState, stage: RowStage, writer: Writer, checkpoint: Path, progress: StepProgress, compares: bool
) -> None:
    feeder = stage.reads[0]
    others = {name: frame for name, frame in state.frames(stage).items() if name != feeder}
    done = stage.keys_done(state.context, state.rows(stage.writes)).select(*stage.key) if compares else None
    failure: list[BaseException] = []

    def commit(batch: DataFrame, _: int) -> None:
        try:
            rows = stage.driving(state.context, {feeder: batch, **others})
            if done is not None:
                rows = stage.subtract(state.context, rows, done, stage.key)
            # It is counted, spread over tasks, and built from.
            rows = rows.persist(StorageLevel.DISK_ONLY)
            try:
                _append(state, stage, writer, rows, others, progress)
            finally:
                rows.unpersist()
        except BaseException as error:
            failure.append(error)
            raise

    source = state.store.read_stream(feeder, state.fingerprint(feeder), state.config.run.files_per_batch)
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


def _append(state: PipelineState, stage: RowStage, writer: Writer, rows: DataFrame, others: Frames, progress: StepProgress) -> None:
    if size := stage.keys_todo(rows).count():
        progress.batch(size)
        append_or_isolate(
            state, stage, writer, rows, lambda part: stage.build(state.context.sized(size), {stage.reads[0]: part, **others})
        )
        progress.commit()
