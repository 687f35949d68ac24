"""Upkeep of a workspace's tables: what no config at hand uses, small files, files that no version in use needs. Driver side."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.pipeline.steps import STEPS
from entropylong.storage.artifacts import differs_by
from entropylong.storage.schemas import ARTIFACTS, TABLES
from entropylong.storage.workspace import Workspace
from entropylong.training.settings import FILE as SETTINGS
from entropylong.training.settings import TrainSettings
from entropylong.training.steps import is_whole

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState

# A fingerprint with more files than this, small on average, is worth writing anew.
FEW_FILES, SMALL_BYTES = 8, 128 << 20
# Delta's own least retention: a reader that began before may still be at work.
LEAST_HOURS = 168


@dataclass(frozen=True)
class Leftover:
    """Rows of a fingerprint that the config does not use, and how its settings differ."""

    table: str
    fingerprint: str
    rows: int
    differs_by: str


def leftovers(state: PipelineState) -> list[Leftover]:
    """What stands in the tables under other fingerprints than the config's: older generations, other models, other thresholds."""
    entries = []
    for step in STEPS:
        for table in step.tables:
            active = state.fingerprint(table)
            counted = state.store.read_all(table).groupBy("fingerprint").count().collect()
            entries += [
                Leftover(table, row.fingerprint, row["count"], _differs(state, row.fingerprint, active))
                for row in counted
                if row.fingerprint != active
            ]
    return sorted(entries, key=lambda left: (left.table, left.fingerprint))


def _differs(state: PipelineState, value: str, active: str | None) -> str:
    one, other = state.registry.get(value), state.registry.get(active or "-")
    if one is None:
        return "unknown: it does not stand in artifacts"
    return differs_by(one, other) if other is not None else "this config's have not begun"


def drop_leftovers(state: PipelineState) -> list[Leftover]:
    """Drop them: whole partitions with their checkpoints, index files, feeds, 13-grams of other sets and what the registry says
    of them. Never single rows.

    A feed that a training run still needs stays.

    Raises:
        WorkspaceError: a run is at work.
    """
    with state.workspace.locked():
        state.store.forget_versions()
        entries = leftovers(state)
        active = {state.fingerprint(step.writes) for step in STEPS}
        for left in entries:
            state.store.drop(left.table, left.fingerprint)
            state.workspace.forget_checkpoints(left.table, left.fingerprint)
        for value in {left.fingerprint for left in entries} - active:
            shutil.rmtree(state.workspace.index(value), ignore_errors=True)
            state.store.drop(ARTIFACTS.name, value)
        for folder in [*idle_feeds(state.workspace, active), *idle_exclusions(state)]:
            shutil.rmtree(folder, ignore_errors=True)
        state.registry.reload()
    return entries


def idle_feeds(workspace: Workspace, active: set[str | None]) -> list[Path]:
    """Sealed feeds that no training run short of its end reads, and that are not of the config's sequences."""
    runs = [TrainSettings.read(file) for file in workspace.path.glob(f"training/*/{SETTINGS}")]
    needed_feeds = {feed for run in runs if not is_whole(run) for feed in run.feeds}
    current_feeds = {feed for value in active if value for feed in workspace.feeds(value)}
    sealed = [feed for feed in workspace.feeds("*") if feed.is_dir() and not feed.suffix]  # not one that is being made
    return [feed for feed in sealed if str(feed) not in needed_feeds and feed not in current_feeds]


def idle_exclusions(state: PipelineState) -> list[Path]:
    """The 13-grams of sets that this config's `corpus.exclude` does not name: they are made again where they are asked for."""
    directory = state.context.excluded.directory if state.context.excluded else ""
    return [folder for folder in state.workspace.path.glob("exclude/*") if folder.is_dir() and str(folder.absolute()) != directory]


@dataclass(frozen=True)
class Compacted:
    """Files of a table before and after."""

    table: str
    files_before: int
    files_after: int


def compact(state: PipelineState, vacuum: bool, few_files: int = FEW_FILES) -> list[Compacted]:
    """Small files of the config's fingerprints into large ones; the rows and what streams have read of them stay.

    Args:
        state: of the workspace.
        vacuum: also delete files that no version younger than a week, and none that an index in use was built from, needs.
        few_files: a table of no more files than this stays as it is.

    Raises:
        WorkspaceError: a run is at work.
    """
    done = []
    with state.workspace.locked():
        state.store.forget_versions()
        hours = _retention_hours(state)
        for table in TABLES:
            if not state.store.exists(table):
                continue
            before, size = state.store.files(table)
            if before > few_files and size / before < SMALL_BYTES:
                state.store.compact(table)
            if vacuum:
                state.store.vacuum(table, hours)
            done.append(Compacted(table, before, state.store.files(table)[0]))
    return done


def _retention_hours(state: PipelineState) -> int:
    """Since the oldest version that an index in use is pinned to: it is built from that again if its files are lost."""
    artifact = state.registry.get(state.fingerprint("index") or "-")
    oldest = [state.store.version_time(table, version) for table, version in (artifact.input_versions if artifact else {}).items()]
    ages = [(datetime.now(UTC) - time).total_seconds() / 3600 for time in oldest]
    return max([LEAST_HOURS, *(math.ceil(age) + 1 for age in ages)])


def leftovers_table(entries: list[Leftover], title: str) -> Table:
    """The same for people."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("table", "fingerprint", "rows", "differs by"):
        table.add_column(column, justify="right" if column == "rows" else "left", overflow="fold")
    for left in entries:
        table.add_row(left.table, left.fingerprint, f"{left.rows:,}", left.differs_by)
    return table


def compacted_table(done: list[Compacted]) -> Table:
    """The same for people."""
    table = Table(title="Files", title_justify="left")
    for column in ("table", "before", "after"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for one in done:
        table.add_row(one.table, f"{one.files_before:,}", f"{one.files_after:,}")
    return table
