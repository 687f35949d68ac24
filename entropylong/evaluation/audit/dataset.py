"""A sample of a data set's rows, and how many of all its rows are copies. JSON lines or parquet, with text or token ids."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from entropylong.config.sources import SourceKind, input_source
from entropylong.corpus.sources.base import WHOLE_FILES, Damaged, Unit
from entropylong.corpus.sources.files import filesystem
from entropylong.corpus.sources.jsonl import json_lines
from entropylong.corpus.sources.registry import unit_source
from entropylong.errors import EvaluationError
from entropylong.models.causal_lm import Ids
from entropylong.utils.hashing import digest, xxhash64

TEXT, IDS, MASK = "text", "input_ids", "loss_mask"
Content = str | Ids


@dataclass(frozen=True)
class Sample:
    """Rows of a data set.

    Attributes:
        rows: (number in the data set from 0, text or token ids), in order of the number.
        total: rows of the data set.
        copies: of all rows, those whose content stands in an earlier one.
    """

    rows: list[tuple[int, Content]]
    total: int
    copies: int

    @property
    def content(self) -> str:
        """Hash of what was taken."""
        return digest([[number, _hash(content)] for number, content in self.rows])


def read_sample(path: Path, count: int, seed: int) -> Sample:
    """Up to `count` rows by hash of their number, from one pass over all.

    Args:
        path: a file, or a folder of them: JSON lines or parquet with `text`, or with `input_ids` (and `loss_mask`: what it masks
            at the end is padding, and left out).
        count: rows.
        seed: other rows.

    Raises:
        SourceError: there is nothing.
        EvaluationError: a row has neither text nor ids, or a file is damaged.
    """
    ((_, source),) = input_source(str(path)).items()
    if (rows := _ROWS.get(source["kind"])) is None:
        raise EvaluationError(f"{path}: is of kind {source['kind']}; an audit reads JSON lines or parquet")
    units = unit_source(source["kind"]).list_units("audit", str(source["path"]), WHOLE_FILES)
    heap: list[tuple[int, int, Content]] = []
    hashes: set[int] = set()
    total = 0
    for number, content in enumerate(row for unit in units for row in rows(unit, str(source["path"]))):
        hashes.add(_hash(content))
        entry = (-xxhash64(seed, number), number, content)
        if len(heap) < count:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)
        total = number + 1
    if not total:
        raise EvaluationError(f"{path}: holds no row")
    return Sample(sorted(((n, content) for _, n, content in heap), key=lambda row: row[0]), total, total - len(hashes))


def _hash(content: Content) -> int:
    return xxhash.xxh3_64_intdigest(content.encode() if isinstance(content, str) else content.tobytes())


def _json_rows(unit: Unit, root: str) -> Iterator[Content]:
    for number, line in enumerate(json_lines(unit), start=1):
        where = f"{unit.path}: record {number}"
        if isinstance(line, Damaged):
            raise EvaluationError(f"{where}: {line.detail}")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise EvaluationError(f"{where} is not JSON") from None
        yield _content(where, row if isinstance(row, dict) else {})


def _parquet_rows(unit: Unit, root: str) -> Iterator[Content]:
    try:
        yield from _arrow_rows(unit, root)
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"{unit.path}: cannot be read: {' '.join(str(error).split())[:200]}") from None


# The kinds that an audit reads, with all columns that it needs.
_ROWS = {SourceKind.JSONL: _json_rows, SourceKind.PARQUET: _parquet_rows}


def _arrow_rows(unit: Unit, root: str) -> Iterator[Content]:
    with filesystem(root)[0].open_input_file(unit.path) as handle:
        file = pq.ParquetFile(handle)
        columns = [name for name in (TEXT, IDS, MASK) if name in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(batch_size=16, columns=columns):
            for row in range(batch.num_rows):
                number += 1
                values = {name: batch.column(name)[row] for name in columns}
                # Of ids as they are: a list of Python numbers would be slow.
                plain = {n: _numbers(v) if n == IDS and v.is_valid else v.as_py() for n, v in values.items()}
                yield _content(f"{unit.path}: row {number}", plain)


def _numbers(value: pa.Scalar) -> Any:
    return value.values.to_numpy(zero_copy_only=False) if hasattr(value, "values") else value.as_py()


def _content(where: str, row: dict[str, Any]) -> Content:
    text, values, mask = row.get(TEXT), row.get(IDS), row.get(MASK)
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EvaluationError(f"{where}: character {error.start} of {TEXT} is half of a surrogate pair") from None
        return text
    if values is None:
        raise EvaluationError(f"{where}: has neither {TEXT} nor {IDS}")
    ids = _whole_numbers(values)
    if ids is None or not len(ids) or not 0 <= ids.min() <= ids.max() < 2**31:
        raise EvaluationError(f"{where}: {IDS} is not a list of token ids")
    if mask is None:
        return ids.astype(np.int32)
    counts = np.frombuffer(mask, np.uint8) if isinstance(mask, bytes) else _whole_numbers(mask)
    if counts is None or len(counts) != len(ids):
        raise EvaluationError(f"{where}: {MASK} is not one number a token")
    return ids[: int(np.flatnonzero(counts).max(initial=-1)) + 1].astype(np.int32)


def _whole_numbers(values: Any) -> np.ndarray[Any, Any] | None:
    """As an array, as wide as they need; None where they are no list of whole numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iub" else None
