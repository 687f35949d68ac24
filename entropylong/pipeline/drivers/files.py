"""Drive a stage that reads input files and source tables: some units per commit."""

from __future__ import annotations

from itertools import islice

from entropylong.core.stage import FileStage
from entropylong.corpus.sources.registry import table_source
from entropylong.corpus.stage import read_units, resolve_duplicates
from entropylong.pipeline.backlog import tables_left, units_left
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Artifact
from entropylong.storage.writer import Writer
from entropylong.utils.progress import StepProgress


def drive(state: PipelineState, stage: FileStage, artifact: Artifact, progress: StepProgress) -> None:
    """Read what was not read yet: sources that may give roots first, tables before files."""
    value, roots = artifact.fingerprint, state.config.sources_with_role("root")
    writer = state.store.writer(stage.writes, value, stage.name)
    tables, units = tables_left(state, value), units_left(state, value)
    for may_be_root in (True, False):
        for name in tables:
            if (name in roots) == may_be_root:
                progress.batch(1)
                _ingest_table(state, writer, value, name)
                progress.commit()
        of_role = iter([u for u in units if (u.source in roots) == may_be_root])
        while batch := list(islice(of_role, state.config.run.files_per_batch)):
            progress.batch(len(batch))
            existing = state.store.read_ok(stage.writes, value).select("doc_id", "text_hash")
            writer.append(resolve_duplicates(read_units(state.spark, state.config, batch), existing, state.config))
            progress.commit()


def _ingest_table(state: PipelineState, writer: Writer, value: str, name: str) -> None:
    source = state.config.sources[name]
    reader = table_source(source.kind)
    version = reader.newest_version(state.spark, name, source)
    records = reader.read_table(state.spark, name, source, version, state.config.ingest.max_chars)
    documents = state.store.read(writer.table, value)
    new = records.join(documents.select("source", "origin"), ["source", "origin"], how="left_anti").dropDuplicates(["origin"])
    if new.head(1):
        existing = state.store.read_ok(writer.table, value).select("doc_id", "text_hash")
        writer.append(resolve_duplicates(new, existing, state.config))
    note = state.workspace.checkpoint(writer.table, value, name)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(version))
