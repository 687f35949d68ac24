"""Which driver does a step. Each makes one idempotent append per unit, whatever is killed when.

Each makes the `Writer` of its work before it reads what is left of it: whatever a run on another machine commits after that,
Delta then refuses this one's next append.
"""

from __future__ import annotations

from entropylong.core.stage import Driver, Stage
from entropylong.pipeline.drivers import files, index, partitioned_search, streams, units, whole
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.utils.progress import StepProgress

_DRIVERS = {
    Driver.FILES: files.drive,
    Driver.STREAMS: streams.drive,
    Driver.UNITS: units.drive,
    Driver.WHOLE: whole.drive,
    Driver.INDEX: index.drive,
    Driver.SEARCH: partitioned_search.drive,
}


def drive(state: PipelineState, stage: Stage, artifact: Artifact, progress: StepProgress) -> None:
    """Do what is left of a step."""
    _DRIVERS[stage.driver](state, stage, artifact, progress)  # type: ignore[operator]
