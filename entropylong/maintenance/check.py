"""`entropylong check`: does a workspace hold what it says? Conservation, keys, index files, sequences, dependencies. Spark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.core.stage import FileStage
from entropylong.corpus.selection import has_canaries, is_canary
from entropylong.errors import IndexFileError
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.packing.recipes import recipe_of
from entropylong.packing.recipes.base import DocumentRunRecipe
from entropylong.packing.sequences import SegmentKind
from entropylong.packing.stage import content_tokens, packable
from entropylong.pipeline.backlog import counts, is_noted
from entropylong.pipeline.steps import STEPS, step_writing
from entropylong.retrieval.index import INDEX_FILES
from entropylong.storage.array_files import read_manifest
from entropylong.storage.schemas import TABLES
from entropylong.utils.hashing import file_sha256

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: how many of it, how many are wrong, and what the first of these is."""

    name: str
    looked_at: int
    wrong: int = 0
    example: str = ""


def check_workspace(state: PipelineState) -> list[Check]:
    """Every check of the active fingerprints, as far as their tables exist. Holds the workspace: nothing moves meanwhile.

    Raises:
        WorkspaceError: a run is at work in it.
    """
    with state.workspace.locked():
        state.known.clear()  # what runs noted is what is checked
        checks = [*_conservation(state), *_keys(state), *_registered(state), *_index_files(state)]
        if (value := state.fingerprint("sequences")) is not None and state.store.exists("sequences"):
            sequences = state.store.read_ok("sequences", value).persist()
            checks += check_sequences(state, sequences)
            sequences.unpersist()
        return checks


def quick_check(state: PipelineState) -> list[Check]:
    """Check what can be told without reading a table: each is as a run left it that had nothing left to do, files are there."""
    with state.workspace.locked():
        checks, touched = [], set[str]()
        for step in (step for step in STEPS if step.has_table and state.store.exists(step.writes)):
            advice = ""
            if read := sorted(touched & {*step.reads}):
                advice = f"what it reads was touched: {read[0]}"
            elif not is_noted(state, step):
                advice = "touched since, or never finished; look with: entropylong check"
            if advice:
                touched.add(step.writes)
            checks.append(Check(f"{step.writes}: as a run left it that had nothing left to do", 1, int(bool(advice)), advice))
        return [*checks, *_index_sizes(state)]


def _index_sizes(state: PipelineState) -> list[Check]:
    value = state.fingerprint("index")
    if value is None:
        return []
    directory = state.workspace.index(value)
    try:
        files = read_manifest(directory, INDEX_FILES)["files"]
    except IndexFileError as error:
        return [Check("index: its manifest can be read", 1, 1, str(error))]
    places = {directory / Path(f["path"]).name: f["bytes"] for f in files}
    wrong = [path.name for path, size in places.items() if not path.is_file() or path.stat().st_size != size]
    return [Check("index: its files are there, of their size", len(places), len(wrong), wrong[0] if wrong else "")]


def check_sequences(state: PipelineState, sequences: DataFrame) -> list[Check]:
    """Check ok rows of `sequences`: their segments, their dependencies, and that nothing planted is in them."""
    checks = [_covered(state, sequences), reassembled(state, sequences), *_dependencies(state, sequences)]
    return [*checks, _no_canary(state, sequences)] if has_canaries(state.config) else checks


def _conservation(state: PipelineState) -> list[Check]:
    """Keys in = keys out, refused ones among them, of each step that has an input."""
    checks = []
    for step in STEPS:
        # Rows by outcome are what a step of files is counted by; no other check reads them.
        counted = counts(state, step, outcomes=isinstance(step, FileStage), by_keys=True)
        if counted is not None and counted.rows_in:
            checks.append(Check(f"{step.writes}: every key that went in came out", counted.rows_in, counted.left))
    return checks


def _keys(state: PipelineState) -> list[Check]:
    """Check that no key is there twice, refused rows among them. One query for all tables."""
    queries = []
    for table, rows in _active(state):
        key = TABLES[table].key
        if TABLES[table].has_unique_key:
            doubled = rows.dropna(subset=list(key)).groupBy(*key).agg(F.count(F.lit(1)).alias("n"))
            name = F.lit(f"{table}: no {' + '.join(key)} twice")
            queries.append(doubled.agg(name, *_counts(F.col("n") > 1, F.concat_ws(", ", *key))))
    counted = reduce(DataFrame.unionAll, queries).collect() if queries else []
    return [Check(name, looked_at, wrong, first or "") for name, looked_at, wrong, first in counted]


def _active(state: PipelineState) -> list[tuple[str, DataFrame]]:
    every = [table for step in STEPS for table in (step.writes, *step.beside) if step.has_table or table in step.beside]
    tables = [table for table in every if state.store.exists(table)]
    return [(t, state.store.read(t, value)) for t in tables if (value := state.fingerprint(t)) is not None]


def _registered(state: PipelineState) -> list[Check]:
    """Every fingerprint in a table stands in `artifacts`: rows that nothing explains could never be read or dropped."""
    tables = [table for step in STEPS for table in step.tables if state.store.exists(table)]
    each = [state.store.read_all(table).select(F.lit(table).alias("table"), "fingerprint").distinct() for table in tables]
    values = {(row.table, row.fingerprint) for row in reduce(DataFrame.unionAll, each).collect()} if each else set()
    unknown = sorted(f"{table} {value}" for table, value in values if state.registry.get(value) is None)
    return [Check("fingerprints: all stand in artifacts", len(values), len(unknown), unknown[0] if unknown else "")]


def _index_files(state: PipelineState) -> list[Check]:
    value = state.fingerprint("index")
    if value is None:
        return []
    directory = state.workspace.index(value)
    try:
        facts = read_manifest(directory, INDEX_FILES)
    except IndexFileError as error:
        return [Check("index: its manifest can be read", 1, 1, str(error))]
    paths = {directory / Path(f["path"]).name: f["sha256"] for f in facts["files"]}
    mismatches = [path.name for path, sha256 in paths.items() if not path.is_file() or file_sha256(path) != sha256]
    cells = state.store.read_ok("index_cells", value)
    strangers = cells.join(_of_chunks(state), "chunk_id", how="left_anti").count()
    missing = abs(int(facts["n"]) - cells.count()) + strangers
    return [
        Check("index: its files are those of its manifest", len(paths), len(mismatches), mismatches[0] if mismatches else ""),
        Check("index_cells: a row each chunk of the index, and no other", int(facts["n"]), missing),
    ]


def _of_chunks(state: PipelineState) -> DataFrame:
    return state.ok_rows("chunks").select("chunk_id")


def _covered(state: PipelineState, sequences: DataFrame) -> Check:
    """Segments follow each other from 0 to pack.length, without gap or overlap."""
    follows = F.expr("forall(segments, s -> s.start = 0 OR exists(segments, p -> p.end = s.start))")
    spans = F.expr("aggregate(segments, 0, (n, s) -> n + s.end - s.start)")
    is_whole = follows & (spans == F.size("input_ids")) & (F.size("input_ids") == state.config.pack.length)
    return _counted("sequences: segments cover pack.length tokens", sequences, ~is_whole, F.col("sequence_id").cast("string"))


def reassembled(state: PipelineState, sequences: DataFrame) -> Check:
    """The ids of every segment are those of the root, chunk, separator, start or padding that it names."""
    config, words = state.config, load(state.context.causal_lm.tokenizer())
    start, pad = pad_and_start(words, config.model.document_start_id)
    fixed = {SegmentKind.START: list(start), SegmentKind.SEPARATOR: encode_plain(words, config.separator)}
    frames, recipe = state.frames(step_writing("sequences")), recipe_of(config)
    if isinstance(recipe, DocumentRunRecipe):
        return _document_runs_reassembled(state, recipe, sequences)
    roots = frames["scored_documents"].select("root_id", F.col("input_ids").alias("root_ids"))
    chunks = frames["context_ids"].select("chunk_id", F.col("ids").alias("chunk_ids"))
    pieces = (
        sequences.select("sequence_id", "input_ids", F.explode("segments").alias("s"))
        .select("sequence_id", "s.*", F.slice("input_ids", F.col("s.start") + 1, F.col("s.end") - F.col("s.start")).alias("piece"))
        .join(roots, "root_id", how="left")
        .join(chunks, "chunk_id", how="left")
    )
    kind = F.col("kind")
    expected = F.when(kind == SegmentKind.ROOT, F.col("root_ids")).when(
        kind.isin(SegmentKind.CONTEXT, SegmentKind.FILLER), F.col("chunk_ids")
    )
    for name, ids in fixed.items():
        expected = expected.when(kind == name, F.array(*map(F.lit, ids)).cast("array<int>"))
    is_padding = (kind == SegmentKind.PAD) & (F.array_distinct("piece") == F.array(F.lit(pad)))
    # What fills a rest is cut to it, and so is a context that was swapped with a shorter one.
    may_be_cut = (kind == SegmentKind.FILLER) | ((kind == SegmentKind.CONTEXT) & F.lit(recipe.swap is not None))
    is_right = F.coalesce(is_padding | (F.col("piece") == expected) | (may_be_cut & _begins(expected)), F.lit(False))
    place = F.concat_ws(" ", F.col("sequence_id").cast("string"), "kind", F.col("start").cast("string"))
    return _counted("sequences: every segment reassembles", pieces, ~is_right, place)


def _begins(ids: Column) -> Column:
    """Whether a segment's ids are the first of these."""
    return F.col("piece") == F.slice(ids, 1, F.size("piece"))


def _document_runs_reassembled(state: PipelineState, recipe: DocumentRunRecipe, sequences: DataFrame) -> Check:
    """Of a baseline: every piece begins what its document run holds there, made anew."""
    frames = packable(state.config, {**state.frames(step_writing("sequences")), "readings": state.readings()})
    runs = recipe.document_runs(state.context, frames, content_tokens(sequences))
    expected = runs.select(F.explode("pieces").alias("p")).groupBy("p.root_id", "p.chunk_id").agg(F.first("p.ids").alias("ids"))
    pieces = (
        sequences.select("sequence_id", "input_ids", F.explode("segments").alias("s"))
        .where(F.col("s.kind").isin(SegmentKind.ROOT, SegmentKind.CONTEXT))
        .select("sequence_id", "s.*", F.slice("input_ids", F.col("s.start") + 1, F.col("s.end") - F.col("s.start")).alias("piece"))
    )
    same = [pieces[name].eqNullSafe(expected[name]) for name in ("root_id", "chunk_id")]
    joined = pieces.join(expected, same[0] & same[1], how="left").select("sequence_id", pieces["start"], "piece", "ids")
    place = F.concat_ws(" ", F.col("sequence_id").cast("string"), F.col("start").cast("string"))
    check = _counted("sequences: every segment reassembles", joined, ~F.coalesce(_begins(F.col("ids")), F.lit(False)), place)
    state.context.release()
    return check


def _no_canary(state: PipelineState, sequences: DataFrame) -> Check:
    """Nothing that was planted is in a sequence."""
    planted = state.frames(step_writing("sequences"))["chunks"].where(is_canary(F.col("doc_id"))).select("chunk_id")
    held = (
        sequences.select(F.explode("segments").alias("s"))
        .select("s.*")
        .where(F.col("kind").isin(SegmentKind.ROOT, SegmentKind.CONTEXT, SegmentKind.FILLER))
    )
    is_planted = is_canary(F.coalesce("root_id", F.lit(""))) | F.col("planted")
    marked = held.join(planted.withColumn("planted", F.lit(True)), "chunk_id", how="left").fillna(False, ["planted"])
    return _counted("sequences: no canary among them", marked, is_planted, F.coalesce("root_id", F.col("chunk_id").cast("string")))


def _dependencies(state: PipelineState, sequences: DataFrame) -> list[Check]:
    links = sequences.select("sequence_id", "segments", F.explode("dependencies").alias("d")).select(
        "sequence_id", "segments", "d.*"
    )
    chunks = state.ok_rows("chunks").select("chunk_id", F.lit(True).alias("known"))
    exists = links.join(chunks, "chunk_id", how="left")
    is_placed = F.expr(
        f"exists(segments, s -> s.kind = '{SegmentKind.CONTEXT}' AND s.chunk_id = chunk_id AND s.end = context_end) AND "
        f"exists(segments, s -> s.kind = '{SegmentKind.ROOT}' AND s.root_id = root_id "
        "AND s.start <= anchor AND anchor < s.end) AND distance = anchor - context_end AND distance >= 0"
    )
    place = F.concat_ws(" ", F.col("sequence_id").cast("string"), "root_id", F.col("chunk_id").cast("string"))
    return [
        _counted("dependencies: their chunks exist", exists, F.col("known").isNull(), place),
        _counted("dependencies: context before anchor, both where they say", links, ~is_placed, place),
    ]


def _counted(name: str, rows: DataFrame, is_wrong: Column, place: Column) -> Check:
    looked_at, wrong, first = rows.agg(*_counts(is_wrong, place)).collect()[0]
    return Check(name, looked_at, wrong, first or "")


def _counts(is_wrong: Column, place: Column) -> tuple[Column, Column, Column]:
    """Rows, those that are wrong, and the first place of these."""
    return F.count(F.lit(1)), F.count_if(is_wrong), F.min(F.when(is_wrong, place))


def check_table(checks: list[Check]) -> Table:
    """The same for people."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("check", "looked at", "wrong", "first"):
        table.add_column(column, justify="right" if column in ("looked at", "wrong") else "left", overflow="fold")
    for check in checks:
        style = "red" if check.wrong else ""
        table.add_row(check.name, f"{check.looked_at:,}", f"{check.wrong:,}", check.example, style=style)
    return table
