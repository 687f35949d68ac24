"""Parquet files: a row is a document. Needs pyarrow, no Spark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from entropylong.config.sources import SOURCE_ENDINGS, SourceKind
from entropylong.corpus.sources.base import Extent, Raw, Row, Unit
from entropylong.corpus.sources.files import FileSource, filesystem

# Rows of a sample are read by so many: a row group as a whole may be gigabytes.
_BATCH = 500


class Parquet(FileSource):
    """Rows of Parquet files."""

    kind = SourceKind.PARQUET
    endings = SOURCE_ENDINGS[SourceKind.PARQUET]

    def split(self, whole: Unit, unit_bytes: int, root: str) -> list[Unit]:
        """Make row groups to units, in runs of about unit_bytes. A file with a damaged footer is one unit, and one error row."""
        try:
            meta = pq.read_metadata(whole.path, filesystem=filesystem(root)[0])
        except (OSError, pa.ArrowException):
            return [whole]
        units, start, size = [], 0, 0
        for group in range(meta.num_row_groups):
            size += meta.row_group(group).total_byte_size
            if size >= unit_bytes or group == meta.num_row_groups - 1:
                end = group + 1
                units.append(replace(whole, name=f"{whole.name}[{start}-{end}]", n_bytes=size, start=start, end=end))
                start, size = end, 0
        return units or [whole]

    def read(self, unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
        """Read texts as bytes: a string column may hold broken UTF-8, which must cost one row, not the file."""
        with filesystem(root)[0].open_input_file(unit.path) as handle:
            file = pq.ParquetFile(handle)
            names = file.schema_arrow.names
            if text_column not in names:
                raise ValueError(f"no column {text_column!r} (it has {', '.join(names)}); map it with sources.<name>.columns.text")
            columns = [text_column] + ([id_column] if id_column in names else [])
            for batch in file.iter_batches(batch_size=256, row_groups=_groups(unit), columns=columns):
                texts = batch.column(text_column).cast(pa.large_binary()).to_pylist()
                ids = _ids(batch.column(id_column)) if id_column in names else [None] * len(texts)
                yield from zip(ids, texts, strict=True)

    def beginning(self, unit: Unit, root: str, extent: Extent) -> tuple[list[Row], float]:
        """Read the first rows, and take them for an even share of the unit."""
        with filesystem(root)[0].open_input_file(unit.path) as handle:
            # With a buffer pages are read as they are needed; without, a row group as a whole, which may be gigabytes.
            file = pq.ParquetFile(handle, buffer_size=1 << 16, pre_buffer=False)
            columns = None if extent.columns is None else [extent.columns.text]
            groups = _groups(unit)
            rows: list[Row] = []
            n_bytes = 0
            for batch in file.iter_batches(batch_size=min(_BATCH, extent.records), row_groups=groups, columns=columns):
                values = [_values(column) for column in batch.columns]
                rows += [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*values, strict=True)]
                n_bytes += batch.nbytes
                if len(rows) >= extent.records or n_bytes >= extent.n_bytes:
                    break
            meta = file.metadata
            total = meta.num_rows if groups is None else sum(meta.row_group(group).num_rows for group in groups)
            return rows, unit.n_bytes * len(rows) / max(1, total) if rows else float(unit.n_bytes)


def _groups(unit: Unit) -> list[int] | None:
    return list(range(unit.start, unit.end)) if unit.end else None


def _ids(column: pa.Array) -> list[Any]:
    return list((column.cast(pa.large_binary()) if _is_text(column) else column).to_pylist())


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _values(column: pa.Array) -> list[Any]:
    """Broken UTF-8 stays bytes: it costs its row, not the file."""
    if not _is_text(column):
        return list(column.to_pylist())

    def text(value: bytes | None) -> str | bytes | None:
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            return value

    return [text(value) for value in column.cast(pa.large_binary()).to_pylist()]


RECORD = Parquet()
