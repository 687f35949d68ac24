"""Drive a stage whose result is one append over a pinned snapshot."""

from __future__ import annotations

from entropylong.core.stage import RecomputeStage
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.utils.progress import StepProgress


def drive(state: PipelineState, stage: RecomputeStage, artifact: Artifact, progress: StepProgress) -> None:
    """Make it, unless it is there."""
    value = artifact.fingerprint
    writer = state.store.writer(stage.writes, value, stage.name)
    if writer.may_have_rows and state.store.read(stage.writes, value).head(1):
        return  # written whole before a kill: only the note of it is missing
    frames = {**state.frames(stage), "readings": state.readings()}
    try:
        writer.append(stage.build(state.context, frames))
    finally:
        state.context.release()
