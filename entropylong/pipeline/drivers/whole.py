"""Drive a stage whose result is one append over a pinned snapshot."""

from __future__ import annotations

from pyspark.sql import functions as F

from entropylong.core.stage import RecomputeStage
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.utils.progress import StepProgress


def drive(state: PipelineState, stage: RecomputeStage, artifact: Artifact, progress: StepProgress) -> None:
    """Make it, unless it is there."""
    value = artifact.fingerprint
    written = state.store.read(stage.writes, value).limit(1)
    if written.head(1):
        return  # written whole before a kill: only the note of it is missing
    frames = {**state.frames(stage), "readings": state.readings()}
    try:
        output = stage.build(state.context, frames).join(written, F.lit(True), how="left_anti")
        state.store.append(stage.writes, output, value, f"{stage.name}-{value}")
    finally:
        state.context.release()
