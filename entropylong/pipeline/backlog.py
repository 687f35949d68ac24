"""What of each step is pending: by keys in committed data, by input units without a record, or by what was noted complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from pyspark.sql import DataFrame

from entropylong.core.context import Frames
from entropylong.core.results import Counts
from entropylong.core.stage import FileStage, RowStage, Stage, StreamStage, WholeStage
from entropylong.corpus.selection import choice_of_roots
from entropylong.corpus.sources.base import TableSource, Unit
from entropylong.corpus.sources.registry import SOURCES, all_units, sources_in_order
from entropylong.errors import NothingToDoError
from entropylong.pipeline.known import Kind, Known
from entropylong.pipeline.ledger import UnitKey, units_read
from entropylong.pipeline.reached import goes_on, input_now
from entropylong.pipeline.state import PipelineState
from entropylong.pipeline.steps import step_writing
from entropylong.storage.schemas import TABLES
from entropylong.utils.hashing import digest


def counts(state: PipelineState, stage: Stage, outcomes: bool = True, by_keys: bool = False) -> Counts | None:
    """Count keys in and left, and the output's rows by outcome; None while something upstream does not exist yet.

    What an earlier run has counted and found done is not counted again while no table has changed since.

    Args:
        state: State of the workspace.
        stage: Step to count for.
        outcomes: Whether rows by outcome are wanted.
        by_keys: Whether to compare keys also where what runs noted says it.
    """
    artifact = state.artifact(stage)
    if artifact is None:
        return None
    value = artifact.fingerprint
    if isinstance(stage, RowStage) and not state.resolve_roots():
        return Counts(0, 0, state.count_outcomes(stage.writes) if outcomes else {})
    # Listed once: what is noted as read is what was looked for.
    units = all_units(state.config) if isinstance(stage, FileStage) else []
    left = 0
    if isinstance(stage, WholeStage):
        left = 0 if stage.is_present(state, value) and is_whole(state, stage) else 1
    elif isinstance(stage, FileStage):
        left = len(tables_left(state, value))
    decided_by = _decided_by(state, stage, units)
    if (known := state.known.get(Kind.COUNTS, value, decided_by)) is not None:
        return Counts(1 if isinstance(stage, WholeStage) else known.rows_in + left, left, known.by_outcome)
    # Looked up before anything is read: where another machine adds a commit in between, nothing is noted.
    versions = {table: state.store.version(table) for table in (*stage.reads, stage.writes) if table in TABLES}
    by_outcome = state.count_outcomes(stage.writes) if outcomes and stage.has_table else {}
    used = set()
    if not by_keys and isinstance(stage, StreamStage) and (keys := _without_reading(state, stage, value)) is not None:
        used = {stage.reads[0]}
        rows_in, left = keys
    elif isinstance(stage, RowStage):
        frames = _Frames(state.frames(stage))
        driving = stage.driving(state.context, frames)
        used = frames.used
        output = state.store.read(stage.writes, value) if by_outcome or not outcomes else None
        rows_in, left = stage.key_counts(state.context, driving, output)
    elif isinstance(stage, FileStage):
        left += len(units_left(state, units_read(state, value, by_keys), units))
        rows_in = sum(by_outcome.values()) + left
    else:
        rows_in = 1
    found = Counts(rows_in, left, by_outcome)
    if left == 0 and outcomes and stage.has_table:
        commits = {table: state.commit(table) for table in (*sorted(used), stage.writes)}
        if all(state.store.version(table) == versions[table] for table in commits):
            state.note(Kind.COUNTS, value, decided_by, Known.of(found, commits))
    return found


def note_done(state: PipelineState, stage: Stage, done: Counts) -> None:
    """Note that a step has nothing left, so that the next run need not count. Of files the next run lists what there is then."""
    if isinstance(stage, FileStage) or not stage.has_table:
        return
    used: set[str] = set()
    if isinstance(stage, RowStage):
        frames = _Frames(state.frames(stage))
        stage.driving(state.context, frames)
        used = frames.used
    commits = {table: state.commit(table) for table in (*sorted(used), stage.writes)}
    known = Known.of(done, commits)
    state.note(Kind.COUNTS, state.context.fingerprints[stage.writes], _decided_by(state, stage, []), known)


def is_noted(state: PipelineState, stage: Stage) -> bool:
    """Whether a run noted that a step had nothing left, and no table was touched since; what is in the tables is not looked at."""
    artifact = state.artifact(stage)
    if artifact is None or (isinstance(stage, RowStage) and not state.resolve_roots()):
        return False
    units = all_units(state.config) if isinstance(stage, FileStage) else []
    return state.known.get(Kind.COUNTS, artifact.fingerprint, _decided_by(state, stage, units)) is not None


def _without_reading(state: PipelineState, stage: StreamStage, value: str) -> tuple[int, int] | None:
    """(keys in, keys left) by what is known of rows, where every row is a key: no row is done, or all that were there then."""
    if not stage.takes_all(state.context):
        return None
    if not state.store.exists(stage.writes) or state.store.is_new(stage.writes):
        done = 0
    elif (reached := goes_on(state, stage, value)) is not None:
        done = reached.input_ok
    else:
        return None
    _, rows_in = input_now(state, stage)
    return rows_in, rows_in - done


def _decided_by(state: PipelineState, stage: Stage, units: Sequence[Unit]) -> str:
    """Hash of what decides which rows are a step's work, beyond its own fingerprint and the tables that it reads."""
    config = state.config
    parts: list[object] = [[u.source, u.name, u.n_bytes > 0] for u in units]
    if isinstance(stage, RowStage):
        parts += [config.sources_with_role(role) for role in ("root", "corpus")]
        parts += [choice_of_roots(state.context), config.semantic(*stage.selects), stage.choice(state.context)]
    return digest(parts)


class _Frames(Mapping[str, DataFrame]):
    """Input tables of a step, and which of them it used."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.used: set[str] = set()

    def __getitem__(self, table: str) -> DataFrame:
        self.used.add(table)
        return self._frames[table]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def is_whole(state: PipelineState, stage: Stage) -> bool:
    """Whether every key that a step has to do now is done; of files, whether they were all read once."""
    artifact = state.artifact(stage)
    if artifact is None:
        return False
    if artifact.fingerprint in (state.finished or ()):
        return True
    if not isinstance(stage, RowStage):
        return state.registry.is_complete(artifact.fingerprint)
    keys = counts(state, stage, outcomes=False)
    return keys is not None and keys.left == 0


def require_whole(state: PipelineState, stage: Stage) -> None:
    """Raise NothingToDoError where a step would compute from half of a table what could not be told from a result later."""
    for table in stage.needs_whole:
        feeder = step_writing(table)
        if not is_whole(state, feeder):
            raise NothingToDoError(
                f"{stage.name}: stage {feeder.name} is not finished; run it first: entropylong run {feeder.name} ..."
            )
    if stage.choice(state.context) is not None and state.config.roots.limit and not is_whole(state, step_writing("documents")):
        raise NothingToDoError(
            f"{stage.name}: roots.limit chooses among all documents; finish them first: entropylong run ingest ..."
        )


def require_input(state: PipelineState, stage: Stage, keys: Counts) -> None:
    """Raise NothingToDoError where nothing feeds a step."""
    if isinstance(stage, RowStage) and keys.rows_in == 0:
        raise NothingToDoError(why_empty(state, stage))
    if isinstance(stage, FileStage) and keys.left == 0 and keys.rows_out == 0:
        reasons = ", ".join(f"{n} {code}" for (_, code), n in keys.outcomes.items())
        raise NothingToDoError(f"{stage.name}: the sources hold no usable document ({reasons or 'no record at all'})")


def why_empty(state: PipelineState, stage: Stage) -> str:
    """Say which filter left a step without input, and the key to change."""
    feeder = stage.reads[0]
    refused = state.count_outcomes(feeder)
    reasons = ", ".join(f"{n} {code}" for (outcome, code), n in sorted(refused.items(), key=str) if outcome != "ok")
    advice = stage.when_empty or f"table {feeder} has no ok row"
    return f"{stage.name}: {advice}" + (f" ({feeder}: {reasons})" if reasons else "")


def units_left(state: PipelineState, read: Set[UnitKey], listed: Sequence[Unit] | None = None) -> list[Unit]:
    """List input units that are not among those that were read."""
    listed = all_units(state.config) if listed is None else listed
    return [u for u in listed if (u.source, u.name) not in read and u.n_bytes > 0]


def tables_left(state: PipelineState, value: str) -> list[str]:
    """List tables that have another version than the one that was read last.

    The note of that version is a cache: without it the table is read again, and every record it gave is recognised.
    """
    left = []
    for name, source in sources_in_order(state.config):
        reader = SOURCES[source.kind]
        if isinstance(reader, TableSource):
            note = state.workspace.checkpoint("documents", value, name)
            if not note.is_file() or note.read_text() != str(reader.newest_version(state.spark, name, source)):
                left.append(name)
    return left
