"""How large the corpus is: as the config states it, or from the sources' bytes and a sample of their texts."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from entropylong.config import Config
from entropylong.config.schema import Source
from entropylong.corpus.sampling import SAMPLE_FILES, SAMPLE_TEXTS, SAMPLE_UNITS, Sampled
from entropylong.errors import ConfigError

if TYPE_CHECKING:
    from entropylong.corpus.sources.readers import Unit

# Beside a text, a record of JSON lines has its keys and its id.
RECORD_BYTES = 40


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


def corpus_size(config: Config, sample_table: Callable[[str, Source], Sampled]) -> CorpusSize:
    """The size of the corpus of a config.

    Args:
        config: its `plan` section states the size, or its sources are sampled.
        sample_table: samples a Delta source, given its name; called for those alone.

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
    found = {
        name: sample_table(name, source) if source.kind == "delta" else _sample(name, source, config.ingest.unit_bytes)
        for name, source in config.sources.items()
    }
    total = sum(one.documents for one in found.values())
    if not total:
        raise ConfigError("no text in the sample of the sources: give plan.documents=N and plan.document_tokens=N")

    def of(role: str) -> float:
        return sum(one.documents for name, one in found.items() if config.sources[name].role in (role, "both"))

    chars = sum(one.documents * one.chars for one in found.values()) / total
    basis = "documents and their length from the sources' bytes and a sample of their texts; copies not taken off"
    return CorpusSize(total, of("root"), of("corpus"), chars, basis)


def _sample(name: str, source: Source, unit_bytes: int) -> Sampled:
    from entropylong.corpus.sources.readers import list_units

    units = list_units(name, source.kind, str(source.path), unit_bytes)
    step = max(1, len(units) // (SAMPLE_FILES if source.kind == "text" else SAMPLE_UNITS))
    documents = chars = seen_bytes = 0.0
    for unit in units[::step]:
        lengths, all_bytes = _lengths(unit, source)
        documents, chars, seen_bytes = documents + len(lengths), chars + sum(lengths), seen_bytes + all_bytes
    if not documents:
        return Sampled(0, 0)
    if source.kind == "text":
        return Sampled(float(len(units)), chars / documents)
    return Sampled(documents * sum(unit.n_bytes for unit in units) / seen_bytes, chars / documents)


def _lengths(unit: Unit, source: Source) -> tuple[list[int], float]:
    """Characters of the first texts of a unit, and the bytes of the unit that they stand for."""
    from entropylong.corpus.sources.readers import read_unit

    records = read_unit(unit, str(source.path), source.columns.text, source.columns.doc_id, 2**31)
    # A run of row groups is small; a compressed file of lines may be of any size.
    most = None if unit.kind == "parquet" else SAMPLE_TEXTS
    texts = [record.text for record in islice(records, most) if record.text is not None]
    is_read = next(records, None) is None
    return [len(text) for text in texts], float(unit.n_bytes) if is_read else _bytes_of(texts, unit)


def _bytes_of(texts: Iterable[str], unit: Unit) -> float:
    lines = [text.encode("utf-8", "replace") for text in texts]
    plain = sum(len(line) + RECORD_BYTES for line in lines)
    if not unit.path.endswith((".gz", ".zst")):
        return plain
    joined = b"".join(lines)
    return plain * len(zlib.compress(joined)) / max(1, len(joined))
