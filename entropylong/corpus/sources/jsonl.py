"""JSON lines, also compressed: a line is a document. Needs pyarrow, no Spark."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow.fs as pafs

from entropylong.config.sources import SOURCE_ENDINGS, SourceKind
from entropylong.corpus.sources.base import Damaged, Extent, Raw, Row, Unit, one_line, unreadable
from entropylong.corpus.sources.files import FileSource, filesystem

COMPRESSED = (".gz", ".zst")
# One line alone may be longer than a sample: a book is a record.
LINE_BYTES = 32 << 20
_PIECE = 1 << 18


class JsonLines(FileSource):
    """Objects of JSON lines files."""

    kind = SourceKind.JSONL
    endings = SOURCE_ENDINGS[SourceKind.JSONL]

    def split(self, whole: Unit, unit_bytes: int, root: str) -> list[Unit]:
        """Cut by bytes: a line belongs to the range that it begins in. What is compressed has to be read from its beginning."""
        if whole.path.endswith(COMPRESSED):
            return [whole]
        size = whole.n_bytes
        ranges = [(start, min(start + unit_bytes, size)) for start in range(0, size, unit_bytes)]
        return [replace(whole, name=f"{whole.name}[{a}-{b}]", n_bytes=b - a, start=a, end=b) for a, b in ranges]

    def read(self, unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
        """Parse the lines that are not blank."""
        for line in _lines(unit, filesystem(root)[0]):
            if line.strip():
                yield _parse_line(line, text_column, id_column)

    def beginning(self, unit: Unit, root: str, extent: Extent) -> tuple[list[Row], float]:
        """Parse the first lines whole, and tell their share of the bytes that it took to read them."""
        with filesystem(root)[0].open_input_file(unit.path) as raw:
            is_plain = not unit.path.endswith(COMPRESSED)
            stream = io.BufferedReader(raw) if is_plain else _decompressed(unit, raw)  # held: it closes the file when it goes
            start = _to_first_line(stream, unit) if is_plain else 0
            if unit.end and start >= unit.end:  # no line begins here
                return [], float(unit.n_bytes)
            block, goes_on, broken = _block(stream, extent.n_bytes, unit.end - start if unit.end else None)
            bytes_read = len(block) if is_plain else raw.tell()
        lines = block.split(b"\n")
        rows: list[Row] = []
        if len(lines) == 1 and goes_on and not broken:
            rows.append(Damaged("INVALID_JSON", f"the first line does not end within {LINE_BYTES >> 20} MB"))
        elif goes_on:
            lines.pop()  # cut
        used = sum(len(line) + 1 for line in lines[: extent.records])
        rows += rows or [_object(line) for line in lines[: extent.records] if line.strip()]
        if broken:
            rows.append(broken)
        return rows, min(float(unit.n_bytes), bytes_read * used / max(1, len(block)))


def json_lines(unit: Unit) -> Iterator[str | Damaged]:
    """The lines of a unit of JSON lines that are not blank; damage in their place, also when the file breaks off half-way."""
    try:
        for line in _lines(unit, filesystem(unit.path)[0]):
            if line.strip():
                yield _decoded(line)
    except unreadable() as error:
        yield Damaged("UNREADABLE_FILE", f"{unit.name}: the rest of the file cannot be read: {one_line(error)}")


def _lines(unit: Unit, system: pafs.FileSystem) -> Iterator[bytes]:
    """Lines that begin in the unit's byte range; of a compressed file all."""
    raw: Any
    if unit.path.endswith(COMPRESSED):
        with system.open_input_stream(unit.path, compression=None) as raw:
            yield from _decompressed(unit, raw)
    else:
        with system.open_input_file(unit.path) as raw:
            buffered = io.BufferedReader(raw)
            position = _to_first_line(buffered, unit)
            while (not unit.end or position < unit.end) and (line := buffered.readline()):
                position += len(line)
                yield line


def _decompressed(unit: Unit, raw: Any) -> Any:
    if unit.path.endswith(".gz"):
        return gzip.GzipFile(fileobj=io.BufferedReader(raw))
    import zstandard

    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))


def _to_first_line(stream: io.BufferedReader, unit: Unit) -> int:
    """Go to where the first line begins that begins in the unit's range, and tell the place in the file."""
    position = max(0, unit.start - 1)
    stream.seek(position)
    return position + len(stream.readline()) if unit.start else position


def _block(stream: Any, limit: int, room: int | None) -> tuple[bytes, bool, Damaged | None]:
    """Read a stream's next bytes, or its first line where that is longer.

    Args:
        stream: of bytes.
        limit: about so many.
        room: to the end of the unit's range; None for that of the file.

    Returns:
        The bytes, whether the stream goes on, and what broke it off.
    """
    block = bytearray()
    limit = limit if room is None else min(limit, room)
    try:
        while len(block) < limit or (len(block) < LINE_BYTES and b"\n" not in block):
            more = min(_PIECE, limit - len(block)) if room is not None and len(block) < limit else _PIECE
            if not (piece := stream.read1(more)):
                return bytes(block), False, None
            block += piece
    except unreadable() as error:
        return bytes(block), True, Damaged("UNREADABLE_FILE", f"the file breaks off: {' '.join(str(error).split())[:200]}")
    return bytes(block), True, None


def _parse_line(line: bytes, text_column: str, id_column: str | None) -> Raw:
    text = _decoded(line)
    if isinstance(text, Damaged):
        return None, text
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, Damaged("INVALID_JSON", f"the line is not JSON: {one_line(error)}")
    if not isinstance(row, dict):
        return None, Damaged("INVALID_JSON", f"the line is a JSON {type(row).__name__}, not an object")
    doc_id = row.get(id_column) if id_column else None
    if text_column not in row:
        return doc_id, Damaged("NO_TEXT", f"no key {text_column!r}; map it with sources.<name>.columns.text")
    value = row[text_column]
    if value is not None and not isinstance(value, str):
        return doc_id, Damaged("NO_TEXT", f"key {text_column!r} holds a {type(value).__name__}, not a string")
    return doc_id, value


def _decoded(line: bytes) -> str | Damaged:
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return Damaged("INVALID_UTF8", f"byte {error.start} of the line is not UTF-8")


def _object(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Damaged("INVALID_UTF8", "the line is not UTF-8")
    except (ValueError, RecursionError):
        return Damaged("INVALID_JSON", "the line is not JSON")
    return row if isinstance(row, dict) else Damaged("INVALID_JSON", "the line is not an object")


RECORD = JSONL = JsonLines()
