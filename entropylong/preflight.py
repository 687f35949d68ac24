"""What can be told before Spark starts: a source that is not there, a model that cannot serve."""

from __future__ import annotations

from pathlib import Path

from entropylong.config import SOURCE_ENDINGS, Config
from entropylong.corpus.readers import find
from entropylong.models.prepare import ModelSpec, PreparedModel, prepare
from entropylong.models.window import check_window


def check_sources(config: Config) -> None:
    """Raise SourceError where a file source has nothing at its path."""
    for name, source in config.sources.items():
        if source.path is not None and source.kind in SOURCE_ENDINGS:
            find(name, source.path)


def prepare_models(config: Config) -> tuple[dict[str, ModelSpec], dict[str, PreparedModel]]:
    """The two models on this machine, by `model` and `encoder`; a root with a context must fit the model's window."""
    cache = Path(config.node_cache).expanduser()
    specs = {
        name: ModelSpec(section.name, section.revision) for name, section in (("model", config.model), ("encoder", config.encoder))
    }
    prepared = {name: prepare(spec, cache) for name, spec in specs.items()}
    check_window(config, prepared["model"].path)
    return specs, prepared
