"""Which driver does a step. Each makes one idempotent append per unit, whatever is killed when.

Each append leaves out the keys that were committed before. An append after another machine's, which came later than the version
that is pinned here, is refused (`Store.append`): it cannot know those keys.
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
    for table in stage.tables:
        state.store.version(table)
    _DRIVERS[stage.driver](state, stage, artifact, progress)  # type: ignore[operator]
