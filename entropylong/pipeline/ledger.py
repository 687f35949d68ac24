"""Which input units were read: noted by the run that read them, so that no later one looks for them in every document.

A cache beside the tables, true of one commit of `documents`. Without it, or at another commit, the documents are asked.
"""

from __future__ import annotations

import logging
from collections.abc import Set

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from entropylong.pipeline.state import PipelineState
from entropylong.utils.files import write_whole

logger = logging.getLogger(__name__)

# (source, name) of a unit.
UnitKey = tuple[str, str]

_COMMIT = b"entropylong.commit"
_SCHEMA = pa.schema([("source", pa.string()), ("unit", pa.string())])


def units_read(state: PipelineState, fingerprint: str, by_documents: bool = False) -> set[UnitKey]:
    """Units of which records are committed. A unit commits whole, so one record of it is proof.

    Args:
        state: State of the workspace.
        fingerprint: Of `documents`.
        by_documents: Whether to look into the documents in any case.
    """
    if not state.store.exists("documents") or state.store.is_new("documents"):
        return set()
    noted = None if by_documents else _noted(state, fingerprint)
    if noted is not None:
        return noted
    rows = state.store.read("documents", fingerprint)
    units = rows.select("source", F.regexp_replace("origin", r":\d+$", "").alias("unit")).distinct().collect()
    return {(row.source, row.unit) for row in units}


def note_units(state: PipelineState, fingerprint: str, units: Set[UnitKey]) -> None:
    """Note that these, and no others, were read as far as the newest commit."""
    file, ordered = state.workspace.ledger(fingerprint), sorted(units)
    table = pa.table({"source": [source for source, _ in ordered], "unit": [name for _, name in ordered]}, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_COMMIT: state.commit("documents").encode()}), sink)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, sink.getvalue().to_pybytes())
    except OSError as error:
        logger.debug("%s: not written: %s", file, error.strerror)


def _noted(state: PipelineState, fingerprint: str) -> set[UnitKey] | None:
    try:
        table = pq.read_table(state.workspace.ledger(fingerprint))
        commit = (table.schema.metadata or {}).get(_COMMIT, b"").decode()
        units = set(zip(table["source"].to_pylist(), table["unit"].to_pylist(), strict=True))
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError):
        return None
    return units if commit == state.commit("documents") else None
