"""Hashes that agree between Python and Spark, so that ids and orders can be recomputed on either side.

`xxhash64` equals Spark SQL's function of that name on STRING and BIGINT columns (chained, seed 42); a test compares them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

SPARK_SEED = 42
_MASK = 2**64 - 1


def xxhash64(*values: str | int, seed: int = SPARK_SEED) -> int:
    """Signed 64-bit hash of strings (UTF-8) and integers (as BIGINT), chained as Spark chains columns.

    Args:
        values: what to hash.
        seed: hash of the columns before them.
    """
    state = seed
    for value in values:
        data = value.encode() if isinstance(value, str) else struct.pack("<q", value)
        state = xxhash.xxh64_intdigest(data, seed=state & _MASK)
    return state - 2**64 if state >= 2**63 else state


def share_threshold(share: float) -> int:
    """The signed 64-bit hashes at or below it are this share of all."""
    return min(2**63 - 1, round(share * 2**64) - 2**63)


def digest(value: Any, length: int = 16) -> str:
    """Hex digest of a JSON-serialisable value, independent of key order."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def text_id(text: str) -> str:
    """128-bit hex id of a document that came without one."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks of 8 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(8 << 20):
            state.update(block)
    return state.hexdigest()


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """One SHA-256 over the places within `folder` and the contents of several files, in the order of their places."""
    state = hashlib.sha256()
    for place, path in sorted((path.relative_to(folder).as_posix(), path) for path in paths):
        state.update(f"{place}={file_sha256(path)};".encode())
    return state.hexdigest()
