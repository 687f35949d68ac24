"""The kinds of sources, by the name that a config gives them. `CONTRIBUTING.md`, Add a source, says what a new one touches."""

from __future__ import annotations

from entropylong.config import Config
from entropylong.config.sources import SourceConfig, SourceKind
from entropylong.corpus.sources.base import SourceReader, TableSource, Unit, UnitSource
from entropylong.utils.registry import load_records

SOURCES: dict[str, SourceReader] = load_records(
    "entropylong.corpus.sources",
    SourceKind,
    SourceReader,  # type: ignore[type-abstract]  # of its subclasses
)


def unit_source(kind: str) -> UnitSource:
    """What reads the units of a kind."""
    reader = SOURCES[kind]
    assert isinstance(reader, UnitSource), kind
    return reader


def table_source(kind: str) -> TableSource:
    """What reads the tables of a kind."""
    reader = SOURCES[kind]
    assert isinstance(reader, TableSource), kind
    return reader


def sources_in_order(config: Config) -> list[tuple[str, SourceConfig]]:
    """Sources that may give roots first, then by name: the first text stays, and a root must not fall to a corpus copy."""
    return sorted(config.sources.items(), key=lambda item: (item[1].role == "corpus", item[0]))


def all_units(config: Config) -> list[Unit]:
    """The units of every source that has some, in order. Driver side."""
    units: list[Unit] = []
    for name, source in sources_in_order(config):
        reader = SOURCES[source.kind]
        if isinstance(reader, UnitSource):
            units += reader.list_units(name, str(source.path), config.ingest.unit_bytes)
    return units


def planted_sources(config: Config) -> list[str]:
    """Names of the sources of invented documents."""
    return [name for name, source in config.sources.items() if SOURCES[source.kind].is_planted]
