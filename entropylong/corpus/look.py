"""A look at a corpus before anything is configured: a bounded sample, which column is the text, what would be refused.

Pure Python but for pyarrow; reads a few MB of whatever lies there, however large it is.
"""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from entropylong.corpus.readers import Damaged, Unit, filesystem, list_units, to_record, unreadable
from entropylong.errors import SourceError

# So many files of a corpus, evenly spread; of each so many bytes (after decompression), so many records.
FILES, FILE_BYTES, FILE_RECORDS = 16, 4 << 20, 500
TEXT_FILES = 400
# What text and ids are called, the likeliest first.
TEXT_NAMES = ("text", "content", "body", "document", "raw_content", "passage", "article", "page_content", "markdown", "abstract")
ID_NAMES = ("doc_id", "id", "_id", "uuid", "document_id", "docid", "guid", "url", "uri", "path", "key", "name", "title")


@dataclass
class Sample:
    """Records of a corpus and what is known of all of it.

    Attributes:
        records: as read, each a mapping of its columns; damage in their place.
        documents: estimate of how many the corpus holds.
        files, n_bytes: of the corpus.
    """

    records: list[Mapping[str, Any] | Damaged]
    documents: float
    files: int = 0
    n_bytes: int = 0


@dataclass(frozen=True)
class Choice:
    """A column, and why it was chosen; None for none."""

    column: str | None
    why: str


@dataclass(frozen=True)
class Look:
    """What a sample says.

    Attributes:
        text, doc_id: the columns.
        chars: lengths of the usable texts.
        copies: usable texts that stand there more than once.
        refused: code -> records that would be refused or skipped.
    """

    sample: Sample
    text: Choice
    doc_id: Choice
    chars: list[int]
    copies: int
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def median_chars(self) -> float:
        return median(self.chars)

    def share_above(self, chars: float) -> float:
        """Of the usable texts, the share with at least so many characters."""
        return sum(n >= chars for n in self.chars) / len(self.chars)


def sample_files(kind: str, path: str) -> Sample:
    """A sample of a source of files.

    Raises:
        SourceError: nothing is there, or no file of the kind.
    """
    units = [unit for unit in list_units("input", kind, path, 1 << 62) if unit.n_bytes]
    if not units:
        raise SourceError(f"{path}: holds no byte")
    step = -(-len(units) // (TEXT_FILES if kind == "text" else FILES))
    records: list[Mapping[str, Any] | Damaged] = []
    n_bytes = 0.0
    for unit in units[::step]:
        found, read = _of_file(unit, path)
        records += found
        n_bytes += read
    total = sum(unit.n_bytes for unit in units)
    documents = float(len(units)) if kind == "text" else len(records) * max(1.0, total / n_bytes) if n_bytes else 0.0
    return Sample(records, documents, len(units), total)


def _of_file(unit: Unit, root: str) -> tuple[list[Mapping[str, Any] | Damaged], float]:
    """Records of a file's beginning, and how many of its bytes they take."""
    try:
        if unit.kind == "parquet":
            return _parquet(unit, root)
        if unit.kind == "text":
            with filesystem(root)[0].open_input_stream(unit.path, compression=None) as handle:
                block = handle.read(FILE_BYTES)
            # What is longer ends at a line, not within a character.
            whole = block.rpartition(b"\n")[0] if len(block) == FILE_BYTES else block
            return [{"text": whole or block}], float(unit.n_bytes)
        return _json_lines(unit, root)
    except unreadable() as error:
        return [Damaged("UNREADABLE_FILE", f"{unit.name}: {' '.join(str(error).split())[:200]}")], float(unit.n_bytes)


def _parquet(unit: Unit, root: str) -> tuple[list[Mapping[str, Any] | Damaged], float]:
    with filesystem(root)[0].open_input_file(unit.path) as handle:
        file = pq.ParquetFile(handle)
        batch = next(file.iter_batches(batch_size=FILE_RECORDS), None)
        rows = [] if batch is None else batch.to_pylist()
        return rows, unit.n_bytes * len(rows) / max(1, file.metadata.num_rows)


def _json_lines(unit: Unit, root: str) -> tuple[list[Mapping[str, Any] | Damaged], float]:
    with filesystem(root)[0].open_input_file(unit.path) as raw:
        stream = _decompressed(unit, raw)  # held: it closes the file when it goes
        block, taken = stream.read(FILE_BYTES), raw.tell()
    lines = block.split(b"\n")
    if len(block) == FILE_BYTES and len(lines) > 1:
        lines.pop()  # cut
    found = [_object(line) for line in lines[:FILE_RECORDS] if line.strip()]
    used = sum(len(line) + 1 for line in lines[:FILE_RECORDS])
    return found, min(float(unit.n_bytes), taken * used / max(1, len(block)))


def _decompressed(unit: Unit, raw: Any) -> Any:
    if unit.path.endswith(".gz"):
        return gzip.GzipFile(fileobj=io.BufferedReader(raw))
    if unit.path.endswith(".zst"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(raw)
    return raw


def _object(line: bytes) -> Mapping[str, Any] | Damaged:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Damaged("INVALID_UTF8", "the line is not UTF-8")
    except (ValueError, RecursionError):
        return Damaged("INVALID_JSON", "the line is not JSON")
    return row if isinstance(row, dict) else Damaged("INVALID_JSON", "the line is no object")


def look_at(sample: Sample, kind: str, max_chars: int, text: str | None = None, doc_id: str | None = None) -> Look:
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
        why = f"{damaged[0].code}, {damaged[0].detail}" if damaged else "blank lines alone"
        raise SourceError(f"no record of the sample can be read as {kind} (the first: {why})")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for given in (text, doc_id):
        if given is not None and given not in names:
            raise SourceError(f"there is no column {given!r}; there are: {', '.join(names)}")
    chosen = Choice(text, "as you said") if text else _text_column(rows, names)
    identity = _file_id() if kind == "text" else Choice(doc_id, "as you said") if doc_id else _id_column(rows, names, chosen.column)
    records = [_record(row, chosen.column or "", identity.column, max_chars) for row in sample.records]
    usable = [record.text for record in records if record.text is not None]
    if not usable:
        raise SourceError(f"column {chosen.column!r} holds no usable text in {len(records)} records")
    refused = Counter(record.code for record in records if record.code is not None)
    return Look(sample, chosen, identity, [len(t) for t in usable], len(usable) - len(set(usable)), refused)


def _file_id() -> Choice:
    return Choice(None, "a text file's id is its path")


def _record(row: Mapping[str, Any] | Damaged, text: str, doc_id: str | None, max_chars: int) -> Any:
    if isinstance(row, Damaged):
        return to_record("input", "", None, row, max_chars)
    value = row.get(text)
    if value is not None and not isinstance(value, (str, bytes)):
        value = Damaged("NO_TEXT", f"a {type(value).__name__}")
    return to_record("input", "", row.get(doc_id) if doc_id else None, value, max_chars)


def _strings(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[str | bytes]:
    return (value for row in rows if isinstance(value := row.get(name), (str, bytes)))


def _text_column(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Choice:
    """The known name that holds text; else the column whose texts are by far the longest."""
    lengths = {name: [len(value) for value in _strings(rows, name)] for name in names}
    texts = {name: sum(found) / len(rows) for name, found in lengths.items() if len(found) > len(rows) / 2 and any(found)}
    if not texts:
        kinds = ", ".join(f"{name} ({type(next(iter(row[name] for row in rows if name in row))).__name__})" for name in names)
        raise SourceError(
            f"no column holds text in most records; there are: {kinds}; bring the text into a column of its own first"
        )
    if "text" in texts:
        return Choice("text", "by its name")
    ranked = sorted(texts, key=lambda name: -texts[name])
    if len(ranked) == 1 or texts[ranked[0]] >= 2 * texts[ranked[1]]:
        return Choice(ranked[0], f"{texts[ranked[0]]:,.0f} characters a record, the longest")
    known = [name for name in TEXT_NAMES if name in texts]
    if len(known) == 1:
        return Choice(known[0], "by its name")
    raise SourceError(f"columns {', '.join(ranked[:4])} may all be the text; say which: --text {ranked[0]}")


def _id_column(rows: Sequence[Mapping[str, Any]], names: Sequence[str], text: str | None) -> Choice:
    """The known name with a value of its own in each record; without one, ids are hashes of the texts."""
    why = "no column is called like an id"
    for name in (name for name in ID_NAMES if name in names and name != text):
        values = [row.get(name) for row in rows]
        if any(value is None or value == "" or not isinstance(value, (str, int)) for value in values):
            why = f"{name!r} is not set in every record"
        elif len(set(values)) < len(values):
            why = f"{name!r} is not unique"
        else:
            return Choice(name, "a value of its own in each record of the sample")
    return Choice(None, f"{why}: the hash of the text is the id")
