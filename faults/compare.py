"""Two workspaces, table by table: keys, decisions, floats to 1e-5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from entropylong.pipeline.runner import Runner
from entropylong.pipeline.steps import STEPS, step_writing

TOLERANCE = 1e-5
PAIR = ("pair_id", "root_id", "chunk_id")
KEYS = {"chunks": ("doc_id", "ordinal"), "pairs": PAIR, "gains": PAIR}
_PROFILES = {"entropy": "<f4", "nll": "<f4", "vector": "<f2"}


@dataclass(frozen=True)
class Difference:
    """Of all tables: keys that are missing, rows beyond one a key, and the first value that differs."""

    lost: int
    doubled: int
    first: str

    @property
    def is_none(self) -> bool:
        return not (self.lost or self.doubled or self.first)


Table = tuple[dict[Any, dict[str, Any]], int]


def tables_of(runner: Runner) -> dict[str, Table]:
    """All tables of a workspace."""
    return {step.writes: rows_by_key(runner, step.writes) for step in STEPS if step.writes != "index"}


def rows_by_key(runner: Runner, table: str) -> Table:
    """The rows of the active fingerprint by key, and how many are beyond one a key."""
    step = step_writing(table)
    frame = runner.state.rows(table).drop("fingerprint")
    key = KEYS.get(table, step.key)
    rows = [row.asDict(recursive=True) for row in frame.collect()]
    by_key = {tuple(row[k] for k in key): row for row in rows}
    return by_key, len(rows) - len(by_key)


def compare(control: dict[str, Table], suffered: dict[str, Table]) -> Difference:
    """What a rerun left different from a run without a fault."""
    lost = doubled = 0
    first = ""
    for table in control:
        (expected, _), (rows, twice) = control[table], suffered[table]
        lost, doubled = lost + len(expected.keys() - rows.keys()), doubled + twice + len(rows.keys() - expected.keys())
        for key in expected.keys() & rows.keys():
            for name, value in expected[key].items():
                if not first and not same(name, value, rows[key][name]):
                    first = f"{table} {key}: {name}"
    return Difference(lost, doubled, first)


def same(name: str, a: Any, b: Any) -> bool:
    """Whether two values agree: numbers to the tolerance, profiles and vectors by their numbers."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(key, a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(name, x, y) for x, y in zip(a, b, strict=True))
    if name in _PROFILES and isinstance(a, bytes | bytearray) and isinstance(b, bytes | bytearray):
        one, other = (np.frombuffer(bytes(x), _PROFILES[name]).astype(np.float32) for x in (a, b))
        tolerance = TOLERANCE if name != "vector" else 1e-3
        return one.shape == other.shape and bool(np.allclose(one, other, rtol=TOLERANCE, atol=tolerance, equal_nan=True))
    return bool(a == b)
