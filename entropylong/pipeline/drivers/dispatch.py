"""The four ways to drive a stage: files, stream, batch, whole. One idempotent append a unit, whatever is killed when."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from entropylong.config import Config
from entropylong.core.context import Context, Frames
from entropylong.core.stage import Kind, Stage
from entropylong.corpus.sources.readers import Unit
from entropylong.corpus.stage import all_units, read_table, read_units, resolve_duplicates, source_version, sources_in_order
from entropylong.errors import EntropyLongError, TableError
from entropylong.pipeline.drivers.index import check_recall, drive_index, drive_partitioned, is_partitioned
from entropylong.pipeline.drivers.worker_death import append_or_isolate
from entropylong.storage.artifacts import Artifact
from entropylong.storage.store import Store, root_cause
from entropylong.utils.hashing import digest
from entropylong.utils.progress import StepProgress

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner


def drive(step: Stage, runner: Runner, artifact: Artifact, progress: StepProgress) -> None:
    """Do what is left of a step.

    Each append leaves out, in the plan of the write itself, the keys that are committed: Delta then knows that it read them, and
    refuses it where a run on another machine committed to the same rows meanwhile.
    """
    if step.writes == "candidates":
        check_recall(runner, runner.ctx.fingerprints["index"])
    if step.kind is Kind.FILES:
        _drive_files(runner, artifact, progress)
    elif step.kind is Kind.STREAM:
        _drive_stream(step, runner, artifact, progress)
    elif step.writes == "candidates" and is_partitioned(runner, runner.ctx.fingerprints["index"]):
        drive_partitioned(step, runner, artifact, progress)
    elif step.kind is Kind.BATCH:
        _drive_batch(step, runner, artifact, progress)
    elif step.writes == "index":
        drive_index(runner, artifact)
    else:
        _drive_pack(step, runner, artifact)


# --- counting ---------------------------------------------------------------------------------------------------------


def key_counts(step: Stage, ctx: Context, frames: Frames, output: DataFrame) -> tuple[int, int]:
    """(keys in, keys left) of a row-wise step, by keys in committed data."""
    key = list(step.key)
    todo = step.keys_todo(step.driving(ctx, frames)).select(*key).distinct()
    done = step.keys_done(ctx, output).select(*key).distinct().withColumn("done", F.lit(1))
    row = todo.join(done, key, how="left").agg(F.count(F.lit(1)), F.count("done")).collect()[0]
    return int(row[0]), int(row[0] - row[1])


def outcome_counts(frame: DataFrame) -> Mapping[tuple[str, str | None], int]:
    """Rows by (outcome, code)."""
    return {(r.outcome, r.code): int(r["count"]) for r in frame.groupBy("outcome", "code").count().collect()}


def why_empty(step: Stage, runner: Runner) -> str:
    """Which filter left a step without input, and the key to change."""
    feeder = step.reads[0]
    refused = outcome_counts(runner.store.read(feeder, runner.fingerprint(feeder) or "-"))
    said = ", ".join(f"{n} {code}" for (outcome, code), n in sorted(refused.items(), key=str) if outcome != "ok")
    advice = {
        "chunk": "no document with role corpus; give a source the role corpus or both",
        "score": "no root document; give a source the role root or both, or raise roots.share",
        "anchors": "no root was scored; lower roots.min_tokens or choose more roots (roots.limit, roots.share)",
        "search": "no root has an anchor; lower anchors.alpha or anchors.min_position, or choose more roots",
        "pairs": "no root has an anchor; lower anchors.alpha or anchors.min_position, or choose more roots",
        "verify": "no pair to measure: no anchor has a candidate; give more corpus text",
    }.get(step.name, f"table {feeder} has no ok row")
    return f"{step.name}: {advice}" + (f" ({feeder}: {said})" if said else "")


# --- files ------------------------------------------------------------------------------------------------------------


def units_left(store: Store, config: Config, value: str) -> list[Unit]:
    """Input units of which no record is committed. A unit commits whole, so one record of it is proof."""
    units = all_units(config)
    rows = store.read("documents", value)
    known = rows.select("source", F.regexp_replace("origin", r":\d+$", "").alias("unit")).distinct().collect()
    seen = {(row.source, row.unit) for row in known}
    return [u for u in units if (u.source, u.name) not in seen and u.n_bytes > 0]


def tables_left(runner: Runner, value: str) -> list[str]:
    """Delta sources that have another version than the one that was read last.

    The note of that version is a cache: without it the table is read again, and every record it gave is recognised.
    """
    left = []
    for name, source in sources_in_order(runner.config):
        if source.kind == "delta":
            note = runner.workspace.checkpoint("documents", value, name)
            if not note.is_file() or note.read_text() != str(source_version(runner.spark, name, source)):
                left.append(name)
    return left


def _ingest_table(runner: Runner, value: str, name: str) -> None:
    source = runner.config.sources[name]
    version = source_version(runner.spark, name, source)
    records = read_table(runner.spark, name, source, version, runner.config.ingest.max_chars)
    documents = runner.store.read("documents", value)
    new = records.join(documents.select("source", "origin"), ["source", "origin"], how="left_anti").dropDuplicates(["origin"])
    if new.head(1):
        existing = runner.store.read_ok("documents", value).select("doc_id", "text_hash")
        transaction = (f"ingest-{value}-{name}-{version}-{runner.store.version('documents')}", 1)
        runner.store.append("documents", resolve_duplicates(new, existing, runner.config), value, transaction)
    note = runner.workspace.checkpoint("documents", value, name)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(version))


def _drive_files(runner: Runner, artifact: Artifact, progress: StepProgress) -> None:
    value, roots = artifact.fingerprint, runner.config.sources_with_role("root")
    tables, units = tables_left(runner, value), units_left(runner.store, runner.config, value)
    for may_be_root in (True, False):
        for name in tables:
            if (name in roots) == may_be_root:
                progress.batch(1)
                _ingest_table(runner, value, name)
                progress.commit()
        of_role = iter([u for u in units if (u.source in roots) == may_be_root])
        while batch := list(islice(of_role, runner.config.run.files_per_batch)):
            progress.batch(len(batch))
            existing = runner.store.read_ok("documents", value).select("doc_id", "text_hash")
            committed = runner.store.read("documents", value).select("source", "origin")
            records = read_units(runner.spark, runner.config, batch).join(committed, ["source", "origin"], how="left_anti")
            rows = resolve_duplicates(records, existing, runner.config)
            # The transaction is named by the units in it: the same batch never lands twice.
            name = f"ingest-{value}-{digest([[u.source, u.name] for u in batch])}"
            runner.store.append("documents", rows, value, (name, 1))
            progress.commit()


# --- streams ----------------------------------------------------------------------------------------------------------


def _drive_stream(step: Stage, runner: Runner, artifact: Artifact, progress: StepProgress) -> None:
    # A checkpoint belongs to all that decides which rows its stream gives: the feeder's fingerprint (gains are shared by
    # several plans of pairs) and the stage's own choice. Another choice reads from the start and is compared by key.
    choice = digest([runner.fingerprint(step.reads[0]), step.choice(runner.ctx)])
    checkpoint = runner.workspace.checkpoint(step.writes, artifact.fingerprint, choice)
    known = checkpoint.is_dir()
    try:
        _stream(step, runner, artifact.fingerprint, checkpoint, progress)
    except _CheckpointUseless as error:
        if not known:
            raise TableError(f"{step.name}: {error}") from error
    if known and progress.left > 0:
        # The output is the truth, the checkpoint a cache: cut short, of a table that was made anew, or ahead of an output that
        # is gone. Without it all is read again, and what is committed is left out by its key.
        runner.ctx.say(f"{step.name}: its checkpoint does not fit the tables; {step.reads[0]} is read from the start")
        shutil.rmtree(checkpoint)
        try:
            _stream(step, runner, artifact.fingerprint, checkpoint, progress)
        except _CheckpointUseless as error:
            raise TableError(f"{step.name}: {error}") from error


class _CheckpointUseless(Exception):
    """A stream failed by itself, not in the work on a batch."""


def _stream(step: Stage, runner: Runner, value: str, checkpoint: Path, progress: StepProgress) -> None:
    table, feeder = step.writes, step.reads[0]
    others = {name: frame for name, frame in runner.frames(step).items() if name != feeder}
    started = threading.Event()
    query: list[StreamingQuery] = []
    failure: list[BaseException] = []

    def commit(batch: DataFrame, batch_id: int) -> None:
        started.wait()
        try:
            done = step.keys_done(runner.ctx, runner.store.read(table, value)).select(*step.key)
            rows = step.subtract(runner.ctx, step.driving(runner.ctx, {feeder: batch, **others}), done, step.key)
            size = step.keys_todo(rows).count()
            if size == 0:
                return
            progress.batch(size)
            append_or_isolate(
                step, runner, value, rows,
                lambda part: step.build(runner.ctx.sized(size), {feeder: part, **others}),
                (f"{step.name}-{value}-{query[0].id}", batch_id),
            )  # fmt: skip
            progress.commit()
        except BaseException as error:
            failure.append(error)
            raise

    source = runner.store.read_stream(feeder, runner.fingerprint(feeder) or "-", runner.config.run.files_per_batch)
    writer = source.writeStream.foreachBatch(commit).option("checkpointLocation", str(checkpoint))
    try:
        query.append(writer.trigger(availableNow=True).start())
        started.set()
        query[0].awaitTermination()
    except PySparkException as error:
        if not failure:
            raise _CheckpointUseless(root_cause(error)) from error
        if isinstance(failure[0], EntropyLongError):
            raise failure[0] from error
        raise TableError(f"{step.name}: {root_cause(failure[0])}") from error


# --- batches of roots -------------------------------------------------------------------------------------------------


def _drive_batch(step: Stage, runner: Runner, artifact: Artifact, progress: StepProgress) -> None:
    value, frames = artifact.fingerprint, runner.frames(step)
    commit_units(step, runner, value, frames, left_of(step, runner, value, frames), progress)


def left_of(step: Stage, runner: Runner, value: str, frames: Frames, rows: DataFrame | None = None) -> DataFrame:
    """Driving rows (or those given) whose keys are not in the step's output."""
    done = step.keys_done(runner.ctx, runner.store.read(step.writes, value)).select(*step.key)
    driving = step.driving(runner.ctx, frames) if rows is None else rows
    return driving.join(done, list(step.key), how="left_anti")


def commit_units(
    step: Stage, runner: Runner, value: str, frames: Frames, todo: DataFrame, progress: StepProgress | None = None
) -> None:
    """Build and append what is to do, some roots at a time, one commit each."""
    roots = todo.select("root_id").distinct().count()
    units = -(-roots // runner.config.run.roots_per_unit)
    unit_of = F.pmod(F.xxhash64("root_id"), F.lit(units))
    sizes = step.keys_todo(todo).groupBy(unit_of.alias("unit")).count().collect() if units else []
    for unit, size in sorted((int(row[0]), int(row[1])) for row in sizes):
        # The version that is read is pinned, so that a unit's own append cannot change what it is computed from.
        rows = todo.where(unit_of == unit)
        if progress:
            progress.batch(size)
        name = f"{step.name}-{value}-{runner.store.version(step.writes)}-{unit}-of-{units}"

        def build(part: DataFrame, size: int = size) -> DataFrame:
            return step.build(runner.ctx.sized(size), {**frames, step.reads[0]: part})

        append_or_isolate(step, runner, value, rows, build, (name, 1))
        if progress:
            progress.commit()


# --- whole data -------------------------------------------------------------------------------------------------------


def _drive_pack(step: Stage, runner: Runner, artifact: Artifact) -> None:
    if runner.store.read(step.writes, artifact.fingerprint).head(1):
        return  # written whole before a kill: only the note of it is missing
    frames = {**runner.frames(step), "cells": runner.cells()}
    try:
        output = step.build(runner.ctx, frames)
        runner.store.append(step.writes, output, artifact.fingerprint, (f"pack-{artifact.fingerprint}", 1))
    finally:
        runner.ctx.release()
