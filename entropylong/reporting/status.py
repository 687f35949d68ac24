"""Where a workspace stands: per step the keys in, done, left and refused, with rate and ETA from the last run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from entropylong.core.stage import FileStage
from entropylong.maintenance.tables import Leftover, leftovers, leftovers_table
from entropylong.pipeline.backlog import counts
from entropylong.pipeline.metrics.compute import latest_metrics
from entropylong.pipeline.steps import STEPS
from entropylong.storage.schemas import ERROR, SKIPPED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from entropylong.pipeline.state import PipelineState

# Tables whose pending work and rate are counted in files, not in rows.
_OF_FILES = {step.writes for step in STEPS if isinstance(step, FileStage)}


def status_rows(state: PipelineState) -> list[dict[str, Any]]:
    """One dictionary a step; a step whose input does not exist yet has null counts.

    `others`: what stands beside it in its table under other settings, another model's rows for example.
    """
    # A notebook asks again and again while a run is at work elsewhere.
    state.store.forget_versions()
    state.known.reload()
    rates, beside = _rates(state), leftovers(state)
    rows: list[dict[str, Any]] = []
    for step in STEPS:
        backlog = counts(state, step)
        artifact = state.artifact(step)
        row: dict[str, Any] = {"stage": step.name, "table": step.writes, "fingerprint": artifact.fingerprint if artifact else None}
        row["counted"] = "documents" if isinstance(step, FileStage) else step.counted or None  # what is left are files
        row |= {
            "rows_in": None,
            "done": None,
            "left": None,
            "skipped": None,
            "quarantined": None,
            "rate": None,
            "eta_seconds": None,
        }
        if backlog is not None:
            rate = rates.get(step.writes)
            row |= {
                "rows_in": backlog.rows_in,
                "done": backlog.done,
                "left": backlog.left,
                "skipped": sum(n for (outcome, _), n in backlog.outcomes.items() if outcome == SKIPPED),
                "quarantined": sum(n for (outcome, _), n in backlog.outcomes.items() if outcome == ERROR),
                "rate": rate,
                "eta_seconds": backlog.left / rate if rate and backlog.left else 0.0 if not backlog.left else None,
            }
        row["others"] = [
            {"fingerprint": left.fingerprint, "rows": left.rows, "differs_by": left.differs_by}
            for left in beside
            if left.table == step.writes
        ]
        rows.append(row)
    return rows


def _rates(state: PipelineState) -> dict[str, float]:
    """Keys a second of each step, from the last run that packed."""
    if state.artifact(STEPS[-1]) is None:
        return {}
    figures = latest_metrics(state)
    return {
        step.writes: figures[f"keys_{step.writes}"] / figures[f"seconds_{step.writes}"]
        for step in STEPS
        if figures.get(f"seconds_{step.writes}") and f"keys_{step.writes}" in figures
    }


def others_table(rows: list[dict[str, Any]]) -> Table | None:
    """What stands beside, for people; None where there is nothing."""
    others = [Leftover(row["table"], **other) for row in rows for other in row["others"]]
    return leftovers_table(others, "Beside them, under other settings (entropylong gc drops it)") if others else None


def status_view(rows: list[dict[str, Any]], workspace: str) -> Group:
    """All of it for people."""
    parts: list[RenderableType] = [status_table(rows, workspace)]
    if beside := others_table(rows):
        parts.append(beside)
    if not any(row["done"] for row in rows):
        parts.append("Nothing has run in this workspace yet.")
    return Group(*parts)


def status_table(rows: list[dict[str, Any]], workspace: str) -> Table:
    """The same for people."""
    # Lean enough for all numbers to fit 80 columns.
    table = Table(
        title=f"Workspace {escape(workspace)}",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption_justify="left",
    )
    for column in ("stage", "table", "in", "done", "left", "skipped", "quarantined", "rate", "ETA"):
        table.add_column(column, justify="left" if column in ("stage", "table") else "right")
    for row in rows:
        numbers = ["-" if row[name] is None else f"{row[name]:,}" for name in ("rows_in", "done", "left", "skipped", "quarantined")]
        is_of_files = row["table"] in _OF_FILES
        if is_of_files and row["left"]:
            numbers[0], numbers[2] = "-", f"{row['left']:,} file{'s' * (row['left'] > 1)}"
        rate = f"{row['rate']:.1f}/s" if row["rate"] and not is_of_files else ""
        eta = f"{row['eta_seconds']:.0f} s" if row["eta_seconds"] else ""
        table.add_row(row["stage"], row["table"], *numbers, rate, eta)
    stages: dict[str | None, list[str]] = {}
    for row in rows:
        if row["stage"] not in stages.setdefault(row["counted"], []):
            stages[row["counted"]].append(row["stage"])
    whole = " and ".join(stages.pop(None, []))
    units = "; ".join(f"{counted} ({', '.join(names)})" for counted, names in stages.items())
    table.caption = (
        f"Counted are {units}. An anchor's candidates are one row of search; a reading is of a pair at one anchor; {whole} "
        "make one thing each, as a whole."
    )
    return table
