"""The rows that were refused as errors: listed, and given another try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from entropylong.core.stage import FileStage, RowStage
from entropylong.errors import UsageError
from entropylong.pipeline.steps import STEPS, steps_of
from entropylong.storage.codes import remedy
from entropylong.storage.schemas import ERROR, NAMES

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState


def quarantine_rows(state: PipelineState, limit: int) -> list[dict[str, Any]]:
    """The error rows of all tables under the active fingerprints, at most `limit` a table."""
    entries: list[dict[str, Any]] = []
    for step in STEPS:
        artifact = state.artifact(step)
        if artifact is None or not step.has_table:
            continue
        rows = state.store.read(step.writes, artifact.fingerprint).where(f"outcome = '{ERROR}'")
        ids = [c for c in (*NAMES, "origin") if c in rows.columns]
        for row in rows.select(*ids, "code", "detail").orderBy("code", *ids).limit(limit).collect():
            keys = {name: row[name] for name in ids if row[name] is not None}
            entries.append({"stage": step.name, "table": step.writes, "key": keys, "code": row.code, "detail": row.detail})
    return entries


def quarantine_table(rows: list[dict[str, Any]]) -> Table:
    """The same for people, and under it what to do about each code."""
    remedies = [f"{code}: {remedy(code)}".replace("`", "") for code in sorted({row["code"] for row in rows})]
    table = Table(title="Quarantine: rows refused as errors", caption="\n".join(remedies), caption_justify="left")
    for column in ("stage", "key", "code", "detail"):
        table.add_column(column, overflow="fold")
    for row in rows:
        keys = ", ".join(f"{k}={v}" for k, v in row["key"].items())
        table.add_row(row["stage"], escape(keys), row["code"], escape(row["detail"] or ""))
    return table


def retry_rows(state: PipelineState, names: Sequence[str]) -> dict[str, int]:
    """Take the error rows of the named stages (of all but ingest, for none) out of their tables, so that a run computes them anew.

    Rows that were skipped by rule, or refused as CONTAMINATED, stay: they would be refused again.

    Returns:
        Rows that will be tried again, by stage.

    Raises:
        UsageError: ingest is named; its errors are of the input.
        WorkspaceError: a run is at work.
    """
    chosen = [step for step in steps_of(list(names)) if isinstance(step, RowStage)]
    if any(isinstance(step, FileStage) for step in steps_of(list(names))) and names:
        raise UsageError("ingest: its errors are of the input; mend the file, which is then read again as another one")
    counts: dict[str, int] = {}
    with state.workspace.locked():
        for step in chosen:
            value = state.fingerprint(step.writes)
            if value is None or not (count := state.store.drop_errors(step.writes, value)):
                continue
            # The stream has passed these rows' input: without its checkpoint it reads all again and compares by key.
            state.workspace.forget_checkpoints(step.writes, value)
            counts[step.name] = counts.get(step.name, 0) + count
    return counts
