"""What every kind of source shares: units, records, samples, and the types of which each kind is one object. Pure Python.

A *unit* is a file or a part of one; a *record* is one input document or the reason why it is none. Every record has an
origin, `unit:number`, unique in its source, so that nothing is read twice and nothing vanishes.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from entropylong.config.sources import ColumnsConfig, SourceConfig
from entropylong.utils.hashing import text_id, xxhash64

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# A unit size that leaves every file whole.
WHOLE_FILES = 1 << 62
# The columns of `Record.row`.
RECORD_COLUMNS = (
    "doc_id STRING, text STRING, source STRING, n_chars INT, text_hash BIGINT, origin STRING, "
    "outcome STRING, code STRING, detail STRING"
)


@dataclass(frozen=True)
class Unit:
    """A part of a source that is read as a whole.

    Attributes:
        name: what `origin` starts with: relative path, size and range. A file that changes its size is a new unit.
        start, end: byte range (JSON lines) or row groups (parquet) of the file; 0, 0 for the whole file.
    """

    source: str
    kind: str
    path: str
    name: str
    n_bytes: int
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Record:
    """One input document, or a refusal with its code and detail."""

    doc_id: str
    text: str | None
    source: str
    origin: str
    outcome: str = "ok"
    code: str | None = None
    detail: str | None = None

    def row(self) -> dict[str, Any]:
        text = self.text
        return {
            "doc_id": self.doc_id,
            "text": text,
            "source": self.source,
            "n_chars": None if text is None else len(text),
            "text_hash": None if text is None else xxhash64(text),
            "origin": self.origin,
            "outcome": self.outcome,
            "code": self.code,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Damaged:
    """A value that is no text: the code and the detail of its error row."""

    code: str
    detail: str


# An id and a text, as they are read.
Raw = tuple[Any, str | bytes | Damaged | None]
# A record with all of its columns; damage in its place.
Row = Mapping[str, Any] | Damaged


@dataclass(frozen=True)
class Extent:
    """How much of a source a sample takes. The defaults read a few MB, however large the source is.

    Attributes:
        unit_bytes: files are taken in parts of about this size.
        units, documents: so many units, evenly spread; of a kind that has one document a file, so many documents.
        n_bytes, records: at most so much of each unit, after decompression. One record may be longer: it may be a book.
        columns: the ones to take; None for all that there are.
    """

    unit_bytes: int = WHOLE_FILES
    units: int = 16
    documents: int = 400
    n_bytes: int = 4 << 20
    records: int = 500
    columns: ColumnsConfig | None = None

    @property
    def text(self) -> str:
        """What the text is called where a kind has no columns."""
        return (self.columns or ColumnsConfig()).text


@dataclass
class Sample:
    """Records of a source and what is known of all of it.

    Attributes:
        records: as read.
        documents: estimate of how many the source holds.
        scale: so many times the sample is the whole source.
        files, n_bytes: of the source.
        others: files in its folder that are of another kind, and so not read.
    """

    records: list[Row]
    documents: float
    scale: float = 1.0
    files: int = 0
    n_bytes: int = 0
    others: Counter[str] = field(default_factory=Counter)


class SourceReader(ABC):
    """A kind of source: all that differs from the other kinds. `registry.SOURCES` holds one object of each.

    Attributes:
        kind: as `sources.*.kind` names it.
        endings: of its files; none for a kind that is not read from files.
        one_document_a_file: a file is a document with its path as id, and there is no column to choose.
        is_planted: its documents are invented, bear `canaries.PREFIX`, and are never packed.
    """

    kind: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()
    one_document_a_file: ClassVar[bool] = False
    is_planted: ClassVar[bool] = False

    @abstractmethod
    def sample(self, name: str, source: SourceConfig, session: Callable[[], SparkSession], extent: Extent) -> Sample:
        """Read some of a source, for a look at it and for its size.

        Args:
            name: of the source, for messages.
            source: its place.
            session: starts Spark; a kind that needs none does not call it.
            extent: how much.

        Raises:
            SourceError: it is not there.
        """


class UnitSource(SourceReader):
    """A kind that is read in units, each by a task of its own."""

    @abstractmethod
    def list_units(self, source: str, path: str, unit_bytes: int) -> list[Unit]:
        """List the units of a source, in name order.

        Raises:
            SourceError: nothing at the path, or no file of the kind under it.
        """

    @abstractmethod
    def read(self, unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
        """Read ids and texts of a unit.

        Args:
            unit: as `list_units` gave it.
            root: the source's path.
            text_column, id_column: where the kind has columns.

        Raises:
            OSError, ValueError: or another error of `unreadable`: the file is damaged from here on.
        """

    def records(self, unit: Unit, root: str, text_column: str, id_column: str | None, max_chars: int) -> Iterator[Record]:
        """Read the records of a unit. Damage becomes a record with its reason, also when the file breaks off half-way."""
        number = 0
        try:
            for number, (doc_id, value) in enumerate(self.read(unit, root, text_column, id_column), start=1):
                yield to_record(unit.source, f"{unit.name}:{number}", doc_id, value, max_chars)
            if number == 0:
                # A row all the same: it says that the unit was read, or it would be read again by every run.
                origin = f"{unit.name}:0"
                detail = f"{origin}: no record begins here"
                yield Record(text_id(origin), None, unit.source, origin, "skipped", "EMPTY_UNIT", detail)
        except unreadable() as error:
            origin = f"{unit.name}:{number + 1}"
            detail = f"{origin}: the rest of the file cannot be read: {one_line(error)}"
            yield Record(text_id(origin), None, unit.source, origin, "error", "UNREADABLE_FILE", detail[:512])

    def sample(self, name: str, source: SourceConfig, session: Callable[[], SparkSession], extent: Extent) -> Sample:
        """Take all of it: what is generated on the spot is small."""
        path = str(source.path)
        units = self.list_units(name, path, extent.unit_bytes)
        records = [record for unit in units for record in self.records(unit, path, extent.text, None, 2**31)]
        rows: list[Row] = [
            Damaged(record.code or "", record.detail or "") if record.text is None else {extent.text: record.text}
            for record in records
        ]
        return Sample(rows, float(len(rows)))


class TableSource(SourceReader):
    """A kind that Spark reads as a table, each version as a whole."""

    @abstractmethod
    def newest_version(self, spark: SparkSession, name: str, source: SourceConfig) -> int:
        """Tell the newest version of a source's table.

        Raises:
            SourceError: there is no such table, or it cannot be read.
        """

    @abstractmethod
    def read_table(self, spark: SparkSession, name: str, source: SourceConfig, version: int, max_chars: int) -> DataFrame:
        """Read the records (`RECORD_COLUMNS`) of the table's rows at one version, with the same checks as of files.

        Raises:
            SourceError: it has no such column.
        """


def unreadable() -> tuple[type[Exception], ...]:
    """What a damaged file raises."""
    import pyarrow as pa
    import zstandard

    return (OSError, EOFError, ValueError, SyntaxError, zlib.error, pa.ArrowException, zstandard.ZstdError)


def to_record(source: str, origin: str, doc_id: Any, value: str | bytes | Damaged | None, max_chars: int) -> Record:
    """A record from a raw value; every way in which a text can be damaged has its code."""
    try:
        doc_id = doc_id.decode("utf-8") if isinstance(doc_id, bytes) else doc_id
    except UnicodeDecodeError as error:
        doc_id, value = None, Damaged("INVALID_UTF8", f"byte {error.start} of the id is not UTF-8")
    own_id = None if doc_id is None or str(doc_id) == "" else str(doc_id)

    def refuse(code: str, detail: str, outcome: str = "error") -> Record:
        safe = (own_id or text_id(origin)).encode("utf-8", "replace").decode()
        return Record(safe, None, source, origin, outcome, code, f"{origin}: {detail}"[:512])

    if isinstance(value, Damaged):
        return refuse(value.code, value.detail)
    if value is None:
        return refuse("NO_TEXT", "the text is null")
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        text.encode("utf-8")
        (own_id or "").encode("utf-8")
    except UnicodeDecodeError as error:
        return refuse("INVALID_UTF8", f"byte {error.start} of the text is not UTF-8")
    except UnicodeEncodeError as error:
        return refuse("LONE_SURROGATE", f"character {error.start} is half of a surrogate pair")
    if "\x00" in text or "\x00" in (own_id or ""):
        return refuse("NUL_BYTE", f"character {text.find(chr(0))} is NUL")
    if len(text) > max_chars:
        return refuse("DOCUMENT_TOO_LONG", f"{len(text)} characters, more than ingest.max_chars ({max_chars})")
    if not text.strip():
        return refuse("BLANK_TEXT", "empty or white space", "skipped")
    return Record(own_id or text_id(text), text, source, origin)


def sampled_record(row: Row, text: str, doc_id: str | None, max_chars: int) -> Record:
    """What a run would make of a sampled row, given its columns."""
    if isinstance(row, Damaged):
        return to_record("input", "", None, row, max_chars)
    value = row.get(text)
    if value is not None and not isinstance(value, (str, bytes)):
        value = Damaged("NO_TEXT", f"a {type(value).__name__}")
    return to_record("input", "", row.get(doc_id) if doc_id else None, value, max_chars)


def one_line(error: BaseException) -> str:
    """An error's message as the end of a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
