"""A look at a corpus before anything is configured: a bounded sample, which column is the text, what would be refused.

Pure Python but for pyarrow; reads a few MB of whatever lies there, however large it is.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from entropylong.config.sources import SourceConfig
from entropylong.corpus.sources.base import Damaged, Extent, Record, Sample, sampled_record
from entropylong.corpus.sources.files import FileSource
from entropylong.corpus.sources.registry import SOURCES
from entropylong.errors import SourceError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What text and ids are called, the likeliest first.
TEXT_NAMES = ("text", "content", "body", "document", "raw_content", "passage", "article", "page_content", "markdown", "abstract")
ID_NAMES = ("doc_id", "id", "_id", "uuid", "document_id", "docid", "guid", "url", "uri", "path", "key")
# Neither text nor an id by itself: too short for the one, and two documents may share it.
LABELS = ("name", "title")
# What helps where no record can be read.
_HINTS = {
    "INVALID_JSON": "; a JSON lines file has one object a line (from an array: jq -c '.[]' FILE); "
    "Parquet, text files (.txt, .md, .rst) and Delta tables can be read too",
    "INVALID_UTF8": "; text in another encoding becomes UTF-8 by, for example: iconv -f LATIN1 -t UTF-8 FILE",
}


@dataclass(frozen=True)
class Choice:
    """A column, and why it was chosen; None for none."""

    column: str | None
    why: str


@dataclass(frozen=True)
class CorpusProfile:
    """What a sample says.

    Attributes:
        text, doc_id: the columns.
        chars: lengths of the usable texts.
        copies: usable texts that stand there more than once.
        refused: code -> records that would be refused or skipped.
        errors: those that count against `quarantine.max_rate`.
    """

    sample: Sample
    text: Choice
    doc_id: Choice
    chars: list[int]
    copies: int
    refused: Counter[str] = field(default_factory=Counter)
    errors: int = 0

    @property
    def median_chars(self) -> float:
        return median(self.chars)

    def share_above(self, chars: float) -> float:
        """Of the usable texts, the share with at least so many characters."""
        return sum(n >= chars for n in self.chars) / len(self.chars)


def sample_source(source: SourceConfig, session: Callable[[], SparkSession]) -> Sample:
    """Sample a source of which only the place is known: its first records with all of their columns.

    Args:
        source: its kind and its place.
        session: starts Spark where the kind needs it.

    Raises:
        SourceError: nothing is there, or no file of the kind, or nothing in it.
    """
    reader = SOURCES[source.kind]
    sample = reader.sample("input", source, session, Extent())
    if isinstance(reader, FileSource) and not sample.n_bytes:
        raise SourceError(f"{source.path}: holds no byte")
    return sample


def profile_corpus(sample: Sample, kind: str, max_chars: int, text: str | None = None, doc_id: str | None = None) -> CorpusProfile:
    """Choose the columns, and count what a run would refuse.

    Args:
        sample: of the corpus.
        kind: of the source.
        max_chars: `ingest.max_chars`.
        text, doc_id: the columns, where the user names them.

    Raises:
        SourceError: no column, or more than one, may be the text; or no record is usable.
    """
    rows = [row for row in sample.records if not isinstance(row, Damaged)]
    if not rows:
        damaged = [one for one in sample.records if isinstance(one, Damaged)]
        if not damaged:
            raise SourceError(f"no record of the sample can be read as {kind}: there is none")
        first = damaged[0]
        raise SourceError(
            f"no record of the sample can be read as {kind} (the first: {first.code}, {first.detail}){_HINTS.get(first.code, '')}"
        )
    # A name that UTF-8 does not hold can stand in no config.
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name == name.encode(errors="replace").decode()]
    for column in (text, doc_id):
        if column is not None and column not in names:
            raise SourceError(f"there is no column {column!r}; there are: {', '.join(names)}")
    chosen = Choice(text, "as you said") if text else _text_column(rows, names)
    if SOURCES[kind].one_document_a_file:
        identity = Choice(None, "a text file's id is its path")
    else:
        identity = Choice(doc_id, "as you said") if doc_id else _id_column(rows, names, chosen.column)
    records = [sampled_record(row, chosen.column or "", identity.column, max_chars) for row in sample.records]
    usable = [record.text for record in records if record.text is not None]
    refused = Counter(record.code for record in records if record.code is not None)
    if not usable:
        codes = ", ".join(f"{count} {code}" for code, count in refused.most_common())
        raise SourceError(f"column {chosen.column!r} holds no usable text in {len(records)} records ({codes})")
    errors = sum(record.outcome == "error" for record in records)
    if conflicts := _conflicts(records):
        refused["CONFLICTING_ID"] += conflicts
        errors += conflicts
    return CorpusProfile(sample, chosen, identity, [len(t) for t in usable], len(usable) - len(set(usable)), refused, errors)


def _conflicts(records: Sequence[Record]) -> int:
    """Records whose id stands for another text already."""
    texts: dict[str, set[str]] = {}
    for record in records:
        if record.text is not None:
            texts.setdefault(record.doc_id, set()).add(record.text)
    return sum(len(versions) - 1 for versions in texts.values())


def _strings(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[str | bytes]:
    return (value for row in rows if isinstance(value := row.get(name), (str, bytes)))


def _text_column(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Choice:
    """`text`, unless it is far shorter than another; else the column with by far the longest texts; else the only known name."""
    means = {name: sum(map(len, _strings(rows, name))) / len(rows) for name in names}
    texts = {name: mean for name, mean in means.items() if mean and name.lower() not in ID_NAMES + LABELS}
    if not texts:
        kinds = ", ".join(f"{name} ({_type(rows, name)})" for name in names)
        raise SourceError(
            f"no column holds text; there are: {kinds}; say which with --text NAME, or bring the text into a column of its own "
            "(nested ones are not read)"
        )
    ranked = sorted(texts, key=lambda name: -texts[name])
    longest = texts[ranked[0]]
    near = [name for name in ranked if 2 * texts[name] > longest]
    if "text" in texts:
        if 10 * texts["text"] >= longest:
            return Choice("text", f"by its name; {texts['text']:,.0f} characters a record")
        near = [*near, "text"]
    if len(near) == 1:
        return Choice(near[0], f"{longest:,.0f} characters a record, by far the longest")
    by_name = [name for name in near if name.lower() in TEXT_NAMES]
    if len(by_name) == 1 and "text" not in texts:
        return Choice(by_name[0], f"by its name; {texts[by_name[0]]:,.0f} characters a record")
    raise SourceError(f"each of the columns {', '.join(near)} may be the text; say which: --text {near[0]}")


def _type(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    kinds = {dict: "nested", list: "a list", str: "an id or a label, by its name", type(None): "null"}
    value = next((row[name] for row in rows if row.get(name) is not None), None)
    return kinds.get(type(value), type(value).__name__) if value != "" else "blank"


_OWN_VALUE = "a value of its own in each record of the sample"


def _id_column(rows: Sequence[Mapping[str, Any]], names: Sequence[str], text: str | None) -> Choice:
    """The known name with a value of its own in each record; without one, ids are hashes of the texts."""
    why = "no column is called like an id"
    for name in (name for id_name in ID_NAMES for name in names if name.lower() == id_name and name != text):
        if (unfit := _no_id(rows, name)) is None:
            return Choice(name, _OWN_VALUE)
        why = unfit
    # Not numbers: what is measured may differ in each record, too.
    others = (n for n in names if n != text and _no_id(rows, n) is None and all(isinstance(row[n], str) for row in rows))
    other = next(others, None)
    hint = "--id NAME takes a column" if other is None else f"--id {shlex.quote(other)} takes {other!r}, {_OWN_VALUE}"
    return Choice(None, f"{why}: the hash of the text is the id; {hint}")


def _no_id(rows: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """Why a column's values are no ids; None where they may be."""
    values = [row.get(name) for row in rows]
    if any(value is None or value == "" or not isinstance(value, (str, int)) for value in values):
        return f"{name!r} is not set, or no text or number, in some records"
    return f"{name!r} is not unique" if len(set(values)) < len(values) else None
