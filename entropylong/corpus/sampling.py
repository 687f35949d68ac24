"""A look at a corpus before anything is configured: a bounded sample, which column is the text, what would be refused.

Pure Python but for pyarrow; reads a few MB of whatever lies there, however large it is.
"""

from __future__ import annotations

import gzip
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from entropylong.config.schema import SOURCE_ENDINGS
from entropylong.corpus.sources.readers import Damaged, Record, Unit, filesystem, find, list_units, to_record, unreadable
from entropylong.errors import SourceError

if TYPE_CHECKING:
    from entropylong.corpus.sources.readers import Unit

# So many files of a corpus, evenly spread; of each so many bytes (after decompression), so many records.
FILES, FILE_BYTES, FILE_RECORDS = 16, 4 << 20, 500
TEXT_FILES = 400
# One line alone may be longer: a book is a record.
LINE_BYTES = 32 << 20
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


@dataclass
class Sample:
    """Records of a corpus and what is known of all of it.

    Attributes:
        records: as read, each a mapping of its columns; damage in their place.
        documents: estimate of how many the corpus holds.
        files, n_bytes: of the corpus.
        others: files in its folder that are of another kind, and so not read.
    """

    records: list[Mapping[str, Any] | Damaged]
    documents: float
    files: int = 0
    n_bytes: int = 0
    others: Counter[str] = field(default_factory=Counter)


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
    return Sample(records, documents, len(units), total, _others(kind, path))


def _others(kind: str, path: str) -> Counter[str]:
    """Files of a folder by their kind, but for those that are read and those that are hidden."""
    system, top = find("input", path)
    if top.is_file:
        return Counter()
    files = [i.base_name for i in system.get_file_info(pafs.FileSelector(top.path, recursive=True)) if i.is_file]
    kinds = (next((k for k, ends in SOURCE_ENDINGS.items() if n.endswith(ends)), "other") for n in files if n[0] not in "_.")
    return Counter(found for found in kinds if found != kind)


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
        # With a buffer pages are read as they are needed; without, a row group as a whole, which may be gigabytes.
        file = pq.ParquetFile(handle, buffer_size=1 << 16, pre_buffer=False)
        batch = next(file.iter_batches(batch_size=FILE_RECORDS), None)
        if batch is None:
            return [], float(unit.n_bytes)
        columns = [_values(column) for column in batch.columns]
        rows = [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
        return list(rows), unit.n_bytes * len(rows) / max(1, file.metadata.num_rows)


def _values(column: pa.Array) -> list[Any]:
    """Broken UTF-8 stays bytes: it costs its row, not the file."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return list(column.to_pylist())

    def text(value: bytes | None) -> str | bytes | None:
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            return value

    return [text(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _json_lines(unit: Unit, root: str) -> tuple[list[Mapping[str, Any] | Damaged], float]:
    with filesystem(root)[0].open_input_file(unit.path) as raw:
        stream = _decompressed(unit, raw)  # held: it closes the file when it goes
        block, goes_on, broken = _beginning(stream)
        taken = raw.tell()
    lines = block.split(b"\n")
    found: list[Mapping[str, Any] | Damaged] = []
    if len(lines) == 1 and goes_on and not broken:
        found.append(Damaged("INVALID_JSON", f"the first line does not end within {LINE_BYTES >> 20} MB"))
    elif goes_on:
        lines.pop()  # cut
    used = sum(len(line) + 1 for line in lines[:FILE_RECORDS])
    found += found or [_object(line) for line in lines[:FILE_RECORDS] if line.strip()]
    if broken:
        found.append(broken)
    return found, min(float(unit.n_bytes), taken * used / max(1, len(block)))


def _beginning(stream: Any) -> tuple[bytes, bool, Damaged | None]:
    """A file's first FILE_BYTES, or its first line where that is longer; whether it goes on, and what broke it off."""
    block = bytearray()
    try:
        while len(block) < FILE_BYTES or (len(block) < LINE_BYTES and b"\n" not in block):
            if not (piece := stream.read1(1 << 18)):
                return bytes(block), False, None
            block += piece
    except unreadable() as error:
        return bytes(block), True, Damaged("UNREADABLE_FILE", f"the file breaks off: {' '.join(str(error).split())[:200]}")
    return bytes(block), True, None


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
    return row if isinstance(row, dict) else Damaged("INVALID_JSON", "the line is not an object")


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
        if not damaged:
            raise SourceError(f"no record of the sample can be read as {kind}: there is none")
        first = damaged[0]
        raise SourceError(
            f"no record of the sample can be read as {kind} (the first: {first.code}, {first.detail}){_HINTS.get(first.code, '')}"
        )
    # A name that UTF-8 does not hold can stand in no config.
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name == name.encode(errors="replace").decode()]
    for given in (text, doc_id):
        if given is not None and given not in names:
            raise SourceError(f"there is no column {given!r}; there are: {', '.join(names)}")
    chosen = Choice(text, "as you said") if text else _text_column(rows, names)
    identity = _file_id() if kind == "text" else Choice(doc_id, "as you said") if doc_id else _id_column(rows, names, chosen.column)
    records = [_record(row, chosen.column or "", identity.column, max_chars) for row in sample.records]
    usable = [record.text for record in records if record.text is not None]
    refused = Counter(record.code for record in records if record.code is not None)
    if not usable:
        said = ", ".join(f"{count} {code}" for code, count in refused.most_common())
        raise SourceError(f"column {chosen.column!r} holds no usable text in {len(records)} records ({said})")
    errors = sum(record.outcome == "error" for record in records)
    if conflicts := _conflicts(records):
        refused["CONFLICTING_ID"] += conflicts
        errors += conflicts
    return Look(sample, chosen, identity, [len(t) for t in usable], len(usable) - len(set(usable)), refused, errors)


def _conflicts(records: Sequence[Record]) -> int:
    """Records whose id stands for another text already."""
    texts: dict[str, set[str]] = {}
    for record in records:
        if record.text is not None:
            texts.setdefault(record.doc_id, set()).add(record.text)
    return sum(len(found) - 1 for found in texts.values())


def _file_id() -> Choice:
    return Choice(None, "a text file's id is its path")


def _record(row: Mapping[str, Any] | Damaged, text: str, doc_id: str | None, max_chars: int) -> Record:
    if isinstance(row, Damaged):
        return to_record("input", "", None, row, max_chars)
    value = row.get(text)
    if value is not None and not isinstance(value, (str, bytes)):
        value = Damaged("NO_TEXT", f"a {type(value).__name__}")
    return to_record("input", "", row.get(doc_id) if doc_id else None, value, max_chars)


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
    known = [name for name in near if name.lower() in TEXT_NAMES]
    if len(known) == 1 and "text" not in texts:
        return Choice(known[0], f"by its name; {texts[known[0]]:,.0f} characters a record")
    raise SourceError(f"each of the columns {', '.join(near)} may be the text; say which: --text {near[0]}")


def _type(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    kinds = {dict: "nested", list: "a list", str: "an id or a label, by its name", type(None): "null"}
    value = next((row[name] for row in rows if row.get(name) is not None), None)
    return kinds.get(type(value), type(value).__name__) if value != "" else "blank"


_OWN_VALUE = "a value of its own in each record of the sample"


def _id_column(rows: Sequence[Mapping[str, Any]], names: Sequence[str], text: str | None) -> Choice:
    """The known name with a value of its own in each record; without one, ids are hashes of the texts."""
    why = "no column is called like an id"
    for name in (name for known in ID_NAMES for name in names if name.lower() == known and name != text):
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


# A sample of a source: so many of its units (of kind text: files of one text), evenly spread, and so many texts of each.
SAMPLE_UNITS, SAMPLE_FILES, SAMPLE_TEXTS = 8, 400, 2000


@dataclass(frozen=True)
class Sampled:
    """Of one source: documents, and their mean length in characters."""

    documents: float
    chars: float
