"""Input files -> records, by bytes in Python: Spark's own readers replace broken UTF-8 silently. Pure but for pyarrow.

A *unit* is a file or a part of one; a *record* is one input document or the reason why it is none. Every record has an
origin, `unit:number`, unique in its source, so that nothing is read twice and nothing vanishes.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from entropylong.config.schema import SOURCE_ENDINGS
from entropylong.corpus.sources.canaries import canary_documents, split_path
from entropylong.corpus.sources.demo import demo_documents, module_files
from entropylong.errors import SourceError
from entropylong.utils.hashing import text_id, xxhash64


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


def list_units(source: str, kind: str, path: str, unit_bytes: int) -> list[Unit]:
    """The units of a source, in name order.

    Raises:
        SourceError: nothing at the path, or no file of the kind under it.
    """
    if kind == "canaries":
        split_path(path)
        return [Unit(source, kind, path, path, len(path))]
    if kind == "demo":
        return [_demo_unit(source, module.strip()) for module in path.split(",") if module.strip()]
    files, root = _list_files(source, kind, path)
    units: list[Unit] = []
    for info in files:
        relative = info.path.removeprefix(root).lstrip("/") or info.base_name
        name = f"{relative}@{info.size}"
        if kind == "jsonl" and not relative.endswith((".gz", ".zst")) and info.size > unit_bytes:
            for start in range(0, info.size, unit_bytes):
                end = min(start + unit_bytes, info.size)
                units.append(Unit(source, kind, info.path, f"{name}[{start}-{end}]", end - start, start, end))
        elif kind == "parquet" and info.size > unit_bytes:
            units += _parquet_units(source, info, name, unit_bytes, path)
        else:
            units.append(Unit(source, kind, info.path, name, info.size))
    return units


def _demo_unit(source: str, module: str) -> Unit:
    size = sum(p.stat().st_size for p in module_files(module))
    return Unit(source, "demo", module, f"{module}@{size}", size)


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it: absolute, as executors have another working directory."""
    if "://" in path:
        system, inner = pafs.FileSystem.from_uri(path)
        return system, str(inner)
    return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())


def find(source: str, path: str) -> tuple[pafs.FileSystem, pafs.FileInfo]:
    """What lies at a source's path.

    Raises:
        SourceError: nothing, or it cannot be reached.
    """
    try:
        system, inner = filesystem(path)
        top = system.get_file_info(inner)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"source {source}: cannot reach {path}: {_line(error)}") from None
    if top.type == pafs.FileType.NotFound:
        raise SourceError(f"source {source}: no such file or directory: {path}")
    if top.type == pafs.FileType.Unknown:
        raise SourceError(f"source {source}: neither a file nor a folder: {path}")
    return system, top


def _list_files(source: str, kind: str, path: str) -> tuple[list[pafs.FileInfo], str]:
    system, top = find(source, path)
    inner = str(top.path)
    try:
        found = [top] if top.is_file else system.get_file_info(pafs.FileSelector(inner, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"source {source}: cannot list {path}: {_line(error)}") from None
    hidden = [i for i in found if i.is_file and i.base_name.startswith(("_", "."))]
    files = [i for i in found if i.is_file and i not in hidden]
    if not top.is_file:
        files = [i for i in files if i.base_name.endswith(SOURCE_ENDINGS[kind])]
    if not files:
        raise SourceError(f"source {source}: no {kind} file ({', '.join(SOURCE_ENDINGS[kind])}) under {path}")
    root = inner if not top.is_file else inner.rpartition("/")[0]
    return sorted(files, key=lambda i: i.path), root


def _parquet_units(source: str, info: pafs.FileInfo, name: str, unit_bytes: int, path: str) -> list[Unit]:
    """Row groups in runs of about unit_bytes. A file whose footer is damaged is one unit, and one error row."""
    whole = [Unit(source, "parquet", info.path, name, info.size)]
    try:
        meta = pq.read_metadata(info.path, filesystem=filesystem(path)[0])
    except (OSError, pa.ArrowException):
        return whole
    units, start, size = [], 0, 0
    for group in range(meta.num_row_groups):
        size += meta.row_group(group).total_byte_size
        if size >= unit_bytes or group == meta.num_row_groups - 1:
            units.append(Unit(source, "parquet", info.path, f"{name}[{start}-{group + 1}]", size, start, group + 1))
            start, size = group + 1, 0
    return units or whole


def read_unit(unit: Unit, root: str, text_column: str, id_column: str | None, max_chars: int) -> Iterator[Record]:
    """Records of a unit. Damage becomes a record with its reason, also when the file breaks off half-way."""
    number = 0
    try:
        for number, (doc_id, value) in enumerate(_raw(unit, root, text_column, id_column), start=1):
            yield to_record(unit.source, f"{unit.name}:{number}", doc_id, value, max_chars)
        if number == 0:
            # A row all the same: it says that the unit was read, or it would be read again by every run.
            origin = f"{unit.name}:0"
            yield Record(text_id(origin), None, unit.source, origin, "skipped", "EMPTY_UNIT", f"{origin}: no record begins here")
    except unreadable() as error:
        origin = f"{unit.name}:{number + 1}"
        detail = f"{origin}: the rest of the file cannot be read: {_line(error)}"
        yield Record(text_id(origin), None, unit.source, origin, "error", "UNREADABLE_FILE", detail[:512])


def unreadable() -> tuple[type[Exception], ...]:
    """What a damaged file raises."""
    import zstandard

    return (OSError, EOFError, ValueError, SyntaxError, zlib.error, pa.ArrowException, zstandard.ZstdError)


def json_lines(unit: Unit) -> Iterator[str | Damaged]:
    """The lines of a unit of JSON lines that are not blank; damage in their place, also when the file breaks off half-way."""
    try:
        for line in _lines(unit, filesystem(unit.path)[0]):
            if line.strip():
                yield _decoded(line)
    except unreadable() as error:
        yield Damaged("UNREADABLE_FILE", f"{unit.name}: the rest of the file cannot be read: {_line(error)}")


@dataclass(frozen=True)
class Damaged:
    """A value that is no text: the code and the detail of its error row."""

    code: str
    detail: str


Raw = tuple[Any, str | bytes | Damaged | None]


def _raw(unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
    if unit.kind in ("canaries", "demo"):
        yield from canary_documents(unit.path) if unit.kind == "canaries" else demo_documents(unit.path)
        return
    system, _ = filesystem(root)
    if unit.kind == "parquet":
        yield from _parquet_rows(unit, system, text_column, id_column)
    elif unit.kind == "text":
        with system.open_input_stream(unit.path, compression=None) as handle:
            yield unit.name.rpartition("@")[0], handle.read()
    else:
        for line in _lines(unit, system):
            if line.strip():
                yield _parse_line(line, text_column, id_column)


def _lines(unit: Unit, system: pafs.FileSystem) -> Iterator[bytes]:
    """Lines that begin in the unit's byte range; of a compressed file all."""
    raw: Any
    if unit.path.endswith(".gz"):
        with system.open_input_stream(unit.path, compression=None) as raw:
            yield from gzip.GzipFile(fileobj=io.BufferedReader(raw))
    elif unit.path.endswith(".zst"):
        import zstandard

        with system.open_input_stream(unit.path, compression=None) as raw:
            yield from io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
    else:
        with system.open_input_file(unit.path) as raw:
            buffered = io.BufferedReader(raw)
            position = max(0, unit.start - 1)
            buffered.seek(position)
            if unit.start:
                position += len(buffered.readline())
            while (not unit.end or position < unit.end) and (line := buffered.readline()):
                position += len(line)
                yield line


def _decoded(line: bytes) -> str | Damaged:
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return Damaged("INVALID_UTF8", f"byte {error.start} of the line is not UTF-8")


def _parse_line(line: bytes, text_column: str, id_column: str | None) -> Raw:
    text = _decoded(line)
    if isinstance(text, Damaged):
        return None, text
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, Damaged("INVALID_JSON", f"the line is not JSON: {_line(error)}")
    if not isinstance(row, dict):
        return None, Damaged("INVALID_JSON", f"the line is a JSON {type(row).__name__}, not an object")
    doc_id = row.get(id_column) if id_column else None
    if text_column not in row:
        return doc_id, Damaged("NO_TEXT", f"no key {text_column!r}; map it with sources.<name>.columns.text")
    value = row[text_column]
    if value is not None and not isinstance(value, str):
        return doc_id, Damaged("NO_TEXT", f"key {text_column!r} holds a {type(value).__name__}, not a string")
    return doc_id, value


def _parquet_rows(unit: Unit, system: pafs.FileSystem, text_column: str, id_column: str | None) -> Iterator[Raw]:
    with system.open_input_file(unit.path) as handle:
        file = pq.ParquetFile(handle)
        names = file.schema_arrow.names
        if text_column not in names:
            raise ValueError(f"no column {text_column!r} (it has {', '.join(names)}); map it with sources.<name>.columns.text")
        columns = [text_column] + ([id_column] if id_column in names else [])
        groups = list(range(unit.start, unit.end)) if unit.end else None
        for batch in file.iter_batches(batch_size=256, row_groups=groups, columns=columns):
            # As bytes: a string column may hold broken UTF-8, which must cost one row, not the file.
            texts = batch.column(text_column).cast(pa.large_binary()).to_pylist()
            ids = _ids(batch.column(id_column)) if id_column in names else [None] * len(texts)
            yield from zip(ids, texts, strict=True)


def _ids(column: pa.Array) -> list[Any]:
    kind = column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return list((column.cast(pa.large_binary()) if is_text else column).to_pylist())


def to_record(source: str, origin: str, doc_id: Any, value: str | bytes | Damaged | None, max_chars: int) -> Record:
    """A record from a raw value; every way in which a text can be damaged has its code."""
    try:
        doc_id = doc_id.decode("utf-8") if isinstance(doc_id, bytes) else doc_id
    except UnicodeDecodeError as error:
        doc_id, value = None, Damaged("INVALID_UTF8", f"byte {error.start} of the id is not UTF-8")
    given = None if doc_id is None or str(doc_id) == "" else str(doc_id)

    def refuse(code: str, detail: str, outcome: str = "error") -> Record:
        safe = (given or text_id(origin)).encode("utf-8", "replace").decode()
        return Record(safe, None, source, origin, outcome, code, f"{origin}: {detail}"[:512])

    if isinstance(value, Damaged):
        return refuse(value.code, value.detail)
    if value is None:
        return refuse("NO_TEXT", "the text is null")
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        text.encode("utf-8")
        (given or "").encode("utf-8")
    except UnicodeDecodeError as error:
        return refuse("INVALID_UTF8", f"byte {error.start} of the text is not UTF-8")
    except UnicodeEncodeError as error:
        return refuse("LONE_SURROGATE", f"character {error.start} is half of a surrogate pair")
    if "\x00" in text or "\x00" in (given or ""):
        return refuse("NUL_BYTE", f"character {text.find(chr(0))} is NUL")
    if len(text) > max_chars:
        return refuse("DOCUMENT_TOO_LONG", f"{len(text)} characters, more than ingest.max_chars ({max_chars})")
    if not text.strip():
        return refuse("BLANK_TEXT", "empty or white space", "skipped")
    return Record(given or text_id(text), text, source, origin)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
