"""What can be told before Spark starts: a source that is not there, a model that cannot serve."""

from __future__ import annotations

import json
from pathlib import Path

from entropylong.config import Config
from entropylong.corpus.sources.files import FileSource, find
from entropylong.corpus.sources.registry import SOURCES
from entropylong.errors import ModelError
from entropylong.models.prepare import ModelSpec, PreparedModel, prepare
from entropylong.models.window import check_window
from entropylong.packing.recipes import recipe_of


def check_sources(config: Config) -> None:
    """Raise SourceError where a file source has nothing at its path."""
    for name, source in config.sources.items():
        if isinstance(SOURCES[source.kind], FileSource):
            find(name, str(source.path))


def prepare_models(config: Config) -> tuple[dict[str, ModelSpec], dict[str, PreparedModel]]:
    """The models on this machine: `model`, `encoder`, and `query` if the recipe wants one. A root with a context must fit.

    Raises:
        ModelError: no such model.
        ConfigError: a root with a context does not fit the model's window.
    """
    cache = config.cache_folder
    specs = {
        name: ModelSpec(section.name, section.revision).absolute()
        for name, section in (("model", config.model), ("encoder", config.encoder))
    }
    if (name := recipe_of(config).query_model(config)) is not None:
        specs["query"] = ModelSpec(name).absolute()
    prepared = {name: prepare(spec, cache) for name, spec in specs.items()}
    check_window(config, prepared["model"].path)
    return specs, prepared


def check_tokenizer(key: str, name: str, exact: Path, other: Path) -> None:
    """Raise ModelError where a second model would read other ids than those that model.name's tokenizer made."""
    files = [folder / "tokenizer.json" for folder in (exact, other)]
    if not all(file.is_file() for file in files):
        raise ModelError(f"{name}: {key} compares tokenizer.json files, and one of the two models has none")
    own, others = (json.loads(file.read_text()).get("model") for file in files)
    if own != others:
        raise ModelError(f"{name}: another tokenizer than model.name; {key} needs one that shares it")
