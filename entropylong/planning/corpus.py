"""How large the corpus is: as the config states it, or from the sources' bytes and a sample of their texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entropylong.config import Config
from entropylong.config.sources import SourceConfig
from entropylong.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# So many texts of each sampled unit.
SAMPLE_TEXTS = 2000


@dataclass(frozen=True)
class CorpusSize:
    """Documents by what they serve as, and their mean length.

    Attributes:
        documents, roots, corpus: all; those of sources that give roots; those of sources that are searched.
        chars: of a document on average.
        basis: where the numbers come from.
    """

    documents: float
    roots: float
    corpus: float
    chars: float
    basis: str


def corpus_size(config: Config, session: Callable[[], SparkSession]) -> CorpusSize:
    """The size of the corpus of a config.

    Args:
        config: its `plan` section states the size, or its sources are sampled.
        session: starts Spark, for a source that is a table; called for those alone.

    Raises:
        ConfigError: it states none and names no source that can be sampled.
        SourceError: a source is not there.
    """
    plan = config.plan
    if plan.documents is not None:
        tokens = plan.document_tokens
        basis = f"plan.documents = {plan.documents:,} of plan.document_tokens = {tokens:,} on average, all roots and corpus alike"
        return CorpusSize(plan.documents, plan.documents, plan.documents, tokens * plan.chars_per_token, basis)
    if not config.sources:
        raise ConfigError("the config names no source to size: give --input PATH_OR_TABLE, or plan.documents=N")
    by_source = {name: _documents(name, source, config.ingest.unit_bytes, session) for name, source in config.sources.items()}
    total = sum(documents for documents, _ in by_source.values())
    if not total:
        raise ConfigError("no text in the sample of the sources: give plan.documents=N and plan.document_tokens=N")

    def of(role: str) -> float:
        return sum(documents for name, (documents, _) in by_source.items() if config.sources[name].role in (role, "both"))

    chars = sum(chars for _, chars in by_source.values()) / total
    basis = "documents and their length from the sources' bytes and a sample of their texts; copies not taken off"
    return CorpusSize(total, of("root"), of("corpus"), chars, basis)


def _documents(name: str, source: SourceConfig, unit_bytes: int, session: Callable[[], SparkSession]) -> tuple[float, float]:
    """Documents of a source with a text, and their characters."""
    from entropylong.corpus.sources.base import Extent, sampled_record
    from entropylong.corpus.sources.registry import SOURCES

    extent = Extent(unit_bytes=unit_bytes, records=SAMPLE_TEXTS, columns=source.columns)
    sample = SOURCES[source.kind].sample(name, source, session, extent)
    records = [sampled_record(row, extent.text, None, 2**31) for row in sample.records]
    lengths = [len(record.text) for record in records if record.text is not None]
    if not lengths:
        return 0.0, 0.0
    return sample.documents * len(lengths) / len(records), sum(lengths) * sample.scale
