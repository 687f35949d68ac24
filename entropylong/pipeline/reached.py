"""How far a stream's last pass came: with it, the next one goes on without reading a key that is committed.

It stands beside the checkpoint that it is true of, and it is a cache: where it is missing or does not fit, keys are compared.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pyspark.sql import functions as F

from entropylong.core.stage import StreamStage
from entropylong.pipeline.state import PipelineState
from entropylong.storage.schemas import OK
from entropylong.storage.workspace import REACHED
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest

logger = logging.getLogger(__name__)

# Operations, with their modes, that add rows or change none.
_ADDING = {("WRITE", "Append"), ("OPTIMIZE", None), ("VACUUM START", None), ("VACUUM END", None)}


@dataclass(frozen=True)
class Reached:
    """The end of a pass.

    Attributes:
        output: Newest commit of the output.
        input_version: Of the input, before the pass.
        input_ok: Ok rows of the input then.
        batches: The newest batch that the checkpoint had planned, and the newest that was done.
    """

    output: str
    input_version: int
    input_ok: int
    batches: tuple[int, int]


_REACHED = TypeAdapter(Reached)


def checkpoint_of(state: PipelineState, stage: StreamStage, fingerprint: str) -> Path:
    """Where a stream remembers what it has read.

    A checkpoint belongs to all that decides which rows its stream gives: the feeder's fingerprint and the stage's own choice.
    Another choice reads from the start and is compared by key.
    """
    choice = digest([state.fingerprint(stage.reads[0]), stage.choice(state.context)])
    return state.workspace.checkpoint(stage.writes, fingerprint, choice)


def goes_on(state: PipelineState, stage: StreamStage, fingerprint: str) -> Reached | None:
    """How far the last pass came, if output and checkpoint are as it left them and rows were only added to the input since."""
    checkpoint, feeder = checkpoint_of(state, stage, fingerprint), stage.reads[0]
    try:
        reached = _REACHED.validate_json((checkpoint / REACHED).read_bytes())
    except (OSError, ValidationError):
        return None
    since = state.store.version(feeder) - reached.input_version
    if since < 0 or reached.batches != _batches(checkpoint) or reached.output != state.commit(stage.writes):
        return None
    if since == 0:
        return reached
    # One more than are expected: where others came in between, the newest do not reach back to the version that was noted.
    commits = state.store.history(feeder, since + 1).select("version", "operation", F.col("operationParameters")["mode"]).collect()
    newer = {(operation, mode) for version, operation, mode in commits if version > reached.input_version}
    return reached if min(commit[0] for commit in commits) <= reached.input_version and newer <= _ADDING else None


def input_now(state: PipelineState, stage: StreamStage) -> tuple[int, int]:
    """Version of the input of a stream, and its ok rows."""
    feeder = stage.reads[0]
    return state.store.version(feeder), state.count_outcomes(feeder).get((OK, None), 0)


def note(state: PipelineState, stage: StreamStage, fingerprint: str, input_then: tuple[int, int]) -> None:
    """Note that a pass over the input, as it was then, has ended well."""
    checkpoint = checkpoint_of(state, stage, fingerprint)
    reached = Reached(state.commit(stage.writes), *input_then, _batches(checkpoint))
    try:
        write_whole(checkpoint / REACHED, json.dumps(asdict(reached)))
    except OSError as error:
        # Without it the next pass is compared by key.
        logger.debug("%s: not written: %s", checkpoint / REACHED, error.strerror)


def _batches(checkpoint: Path) -> tuple[int, int]:
    """The newest batch that was planned, and the newest that was done."""
    planned, done = (
        max((int(file.name) for file in (checkpoint / kind).glob("*") if file.name.isdigit()), default=-1)
        for kind in ("offsets", "commits")
    )
    return planned, done
