"""From a config file to a runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner


def open_runner(config: str, overrides: Sequence[str], input_path: str | None = None, names: Sequence[str] | None = None) -> Runner:
    """The runner of a config file, with a session. What a run of the named stages would trip over is told before Spark starts."""
    from entropylong.config import load_config

    loaded = load_config(config, overrides, input_path)
    from entropylong.spark.session import on_databricks, session

    if on_databricks():
        session(loaded)  # there already: compute that cannot serve is told before anything else is looked at
    from entropylong.core.stage import Kind
    from entropylong.corpus.exclusion import prepare_excluded
    from entropylong.pipeline.preflight import check_sources, prepare_models
    from entropylong.pipeline.runner import Runner
    from entropylong.pipeline.steps import steps_of

    if names is not None and any(step.kind is Kind.FILES for step in steps_of(list(names))):
        check_sources(loaded)
    prepare_excluded(loaded)
    prepare_models(loaded)
    return Runner(loaded, session(loaded))
