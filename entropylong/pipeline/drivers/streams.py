"""Drive a row-wise stage as a stream: Structured Streaming with `availableNow`, one commit per micro-batch."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from entropylong.core.stage import RowStage
from entropylong.errors import EntropyLongError, TableError
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.store import root_cause
from entropylong.utils.hashing import digest
from entropylong.utils.progress import StepProgress

logger = logging.getLogger(__name__)


def drive(state: PipelineState, stage: RowStage, artifact: Artifact, progress: StepProgress) -> None:
    """Read the rows that arrived since the checkpoint, and commit what they give, some files at a time."""
    # A checkpoint belongs to all that decides which rows its stream gives: the feeder's fingerprint (gains are shared by
    # several plans of pairs) and the stage's own choice. Another choice reads from the start and is compared by key.
    choice = digest([state.fingerprint(stage.reads[0]), stage.choice(state.context)])
    checkpoint = state.workspace.checkpoint(stage.writes, artifact.fingerprint, choice)
    has_checkpoint = checkpoint.is_dir()
    try:
        _stream(state, stage, artifact.fingerprint, checkpoint, progress)
    except _CheckpointUselessError as error:
        if not has_checkpoint:
            raise TableError(f"{stage.name}: {error}") from error
    if has_checkpoint and progress.left > 0:
        # The output is the truth, the checkpoint a cache: cut short, of a table that was made anew, or ahead of an output that
        # is gone. Without it all is read again, and what is committed is left out by its key.
        logger.info("%s: its checkpoint does not fit the tables; %s is read from the start", stage.name, stage.reads[0])
        shutil.rmtree(checkpoint)
        try:
            _stream(state, stage, artifact.fingerprint, checkpoint, progress)
        except _CheckpointUselessError as error:
            raise TableError(f"{stage.name}: {error}") from error


class _CheckpointUselessError(Exception):
    """A stream failed by itself, not in the work on a batch."""


def _stream(state: PipelineState, stage: RowStage, value: str, checkpoint: Path, progress: StepProgress) -> None:
    table, feeder = stage.writes, stage.reads[0]
    others = {name: frame for name, frame in state.frames(stage).items() if name != feeder}
    failure: list[BaseException] = []

    def commit(batch: DataFrame, _: int) -> None:
        try:
            done = stage.keys_done(state.context, state.store.read(table, value)).select(*stage.key)
            rows = stage.subtract(state.context, stage.driving(state.context, {feeder: batch, **others}), done, stage.key)
            size = stage.keys_todo(rows).count()
            if size == 0:
                return
            progress.batch(size)
            append_or_isolate(
                state, stage, value, rows,
                lambda part: stage.build(state.context.sized(size), {feeder: part, **others}),
                f"{stage.name}-{value}",
            )  # fmt: skip
            progress.commit()
        except BaseException as error:
            failure.append(error)
            raise

    source = state.store.read_stream(feeder, state.fingerprint(feeder), state.config.run.files_per_batch)
    writer = source.writeStream.foreachBatch(commit).option("checkpointLocation", str(checkpoint))
    try:
        writer.trigger(availableNow=True).start().awaitTermination()
    except PySparkException as error:
        if not failure:
            raise _CheckpointUselessError(root_cause(error)) from error
        if isinstance(failure[0], EntropyLongError):
            raise failure[0] from error
        raise TableError(f"{stage.name}: {root_cause(failure[0])}") from error
