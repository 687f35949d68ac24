"""From a config file to the state of its workspace, or to a runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner
    from entropylong.pipeline.state import PipelineState


def open_state(
    config: str, overrides: Sequence[str], input_path: str | None = None, names: Sequence[str] | None = None
) -> PipelineState:
    """Load a config file and open its workspace with a session.

    What a run of the named stages would fail at (missing sources, sets, models) is raised before Spark starts.
    """
    from entropylong.config import load_config

    loaded = load_config(config, overrides, input_path)
    from entropylong.spark.session import on_databricks, session

    if on_databricks():
        session(loaded)  # there already: compute that cannot serve is told before anything else is looked at
    from entropylong.core.stage import FileStage
    from entropylong.corpus.exclusion import prepare_excluded
    from entropylong.pipeline.preflight import check_sources, prepare_models
    from entropylong.pipeline.state import PipelineState
    from entropylong.pipeline.steps import steps_of

    if names is not None and any(isinstance(step, FileStage) for step in steps_of(list(names))):
        check_sources(loaded)
    prepare_excluded(loaded)
    prepare_models(loaded)
    return PipelineState(loaded, session(loaded))


def open_runner(config: str, overrides: Sequence[str], input_path: str | None = None, names: Sequence[str] | None = None) -> Runner:
    """Open a workspace to run stages in it, as `open_state` does."""
    state = open_state(config, overrides, input_path, names)
    from entropylong.pipeline.runner import Runner

    return Runner(state)
