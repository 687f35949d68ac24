"""Drive a stage that reads input files and source tables: some units per commit.

No commit reads what is committed. Which records are copies of others is found before the first commit, once a run; where there is
more than one batch, the sources are read twice for it: for their keys, then for their text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.stage import FileStage
from entropylong.corpus.duplicates import KEYS, duplicates, is_reserved, refuse_reserved, without_duplicates
from entropylong.corpus.sources.base import Unit
from entropylong.corpus.sources.registry import table_source
from entropylong.corpus.stage import read_keys, read_units
from entropylong.pipeline.backlog import tables_left, units_left
from entropylong.pipeline.drivers.aside import Aside, aside, of_part
from entropylong.pipeline.ledger import note_units, units_read
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.schemas import OK
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress

logger = logging.getLogger(__name__)

# Copies of a batch that every task may hold; more are shuffled to their records.
MOST_BROADCAST = 1_000_000


@dataclass(frozen=True)
class _Batch:
    """What one commit reads: units of sources, or a version of a table.

    Attributes:
        records: reads it.
        units: none for a table.
        table: source and version to note once it is committed; None for units.
    """

    records: Callable[[], DataFrame]
    units: tuple[Unit, ...] = ()
    table: tuple[str, int] | None = None


def drive(state: PipelineState, stage: FileStage, artifact: Artifact, progress: StepProgress) -> None:
    """Read what was not read yet: sources that may give roots first, tables before files."""
    value = artifact.fingerprint
    writer = state.store.writer(stage.writes, value, stage.name)
    seen = units_read(state, value)
    batches = _batches(state, writer, value, units_left(state, seen), stage.batch_bytes(state.context))
    committed = state.store.read_ok(writer.table, value).select("doc_id", "text_hash") if writer.may_have_rows else None
    with aside(state, writer.table) as folder:
        for batch, (records, copies) in zip(batches, _checked(state, batches, committed, folder), strict=True):
            progress.batch(max(1, len(batch.units)))
            if batch.units or records.head(1):
                writer.append(without_duplicates(records, copies))
            if batch.table is not None:
                name, version = batch.table
                note = state.workspace.checkpoint(writer.table, value, name)
                note.parent.mkdir(parents=True, exist_ok=True)
                note.write_text(str(version))
            state.context.release()
            progress.commit()
    note_units(state, value, seen | {(unit.source, unit.name) for batch in batches for unit in batch.units})


def _batches(state: PipelineState, writer: Writer, value: str, units: list[Unit], most: int) -> list[_Batch]:
    roots, tables = state.config.sources_with_role("root"), tables_left(state, value)
    batches = []
    for may_be_root in (True, False):
        batches += [_table_batch(state, writer, value, name) for name in tables if (name in roots) == may_be_root]
        some: list[Unit] = []
        room = most
        for unit in (unit for unit in units if (unit.source in roots) == may_be_root):
            if some and unit.n_bytes > room:
                batches.append(_unit_batch(state, some))
                some, room = [], most
            some.append(unit)
            room -= unit.n_bytes
        batches += [_unit_batch(state, some)] if some else []
    return batches


def _unit_batch(state: PipelineState, units: list[Unit]) -> _Batch:
    return _Batch(lambda: read_units(state.spark, state.config, units), tuple(units))


def _table_batch(state: PipelineState, writer: Writer, value: str, name: str) -> _Batch:
    source = state.config.sources[name]
    reader = table_source(source.kind)
    version = reader.newest_version(state.spark, name, source)

    def records() -> DataFrame:
        rows = reader.read_table(state.spark, name, source, version, state.config.ingest.max_chars).dropDuplicates(["origin"])
        if not writer.may_have_rows:
            return rows
        read_before = state.store.read(writer.table, value).where(F.col("source") == name).select("origin")
        return rows.join(read_before, "origin", how="left_anti").select(*rows.columns)

    return _Batch(records, table=(name, version))


def _checked(
    state: PipelineState, batches: list[_Batch], committed: DataFrame | None, folder: Aside
) -> Iterator[tuple[DataFrame, DataFrame]]:
    """Give the records of each batch, and those of them that are refused for what other records hold."""
    config, context = state.config, state.context
    if len(batches) == 1:
        records = context.cache(refuse_reserved(batches[0].records(), config))
        yield records, duplicates(records.where(F.col("outcome") == OK).select(*KEYS), committed, config)
        return
    logger.info("ingest: sources are looked through for copies first, then read")
    keys = [read_keys(state.spark, config, [batch.units for batch in batches], context.cores)]
    for number, batch in enumerate(batches):
        if batch.table is not None:
            keys.append(batch.records().where(F.col("outcome") == OK).select(*KEYS, F.lit(number).alias("batch")))
    new = reduce(DataFrame.unionByName, keys).where(~is_reserved(config))
    refused = folder.cut("refused", duplicates(new, committed, config), "batch")
    sizes = {row[0]: row[1] for row in refused.groupBy("batch").count().collect()}
    for number, batch in enumerate(batches):
        copies = of_part(refused, "batch", number)
        small = F.broadcast(copies) if sizes.get(number, 0) <= MOST_BROADCAST else copies
        yield refuse_reserved(batch.records(), config), small
