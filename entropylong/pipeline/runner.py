"""The runner: resolves fingerprints, finds what is behind, drives each stage by its kind. Knows nothing of entropy.

The first screen is `Runner.run`. `engines.py` holds the four ways to drive a stage.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from entropylong.config import Config
from entropylong.core.context import Frames
from entropylong.core.handles import IndexHandle
from entropylong.core.results import Counts, RunResult, StepResult, require_few_errors
from entropylong.core.stage import Kind, Stage
from entropylong.corpus.exclusion import EXCLUDE
from entropylong.corpus.selection import is_chosen
from entropylong.errors import ConfigError, NothingToDo, TableError
from entropylong.pipeline.context_factory import make_context
from entropylong.pipeline.drivers import dispatch
from entropylong.pipeline.drivers.index import new_index_artifact, serves
from entropylong.pipeline.resolve import body_dtype, packed_from, root_threshold
from entropylong.pipeline.steps import step_writing, steps_of
from entropylong.storage.array_files import MANIFEST
from entropylong.storage.artifacts import Artifact, Registry, fingerprint
from entropylong.storage.store import Store
from entropylong.storage.workspace import Workspace
from entropylong.tracking.mlflow import Tracker
from entropylong.utils.hashing import file_sha256
from entropylong.utils.progress import step_progress
from entropylong.verification.readings import judged_cells


class Runner:
    """One workspace under one config.

    Args:
        config: the configuration.
        spark: the session.
    """

    def __init__(self, config: Config, spark: SparkSession) -> None:
        self.config, self.spark = config, spark
        self.workspace = Workspace(config.workspace)
        self.store = Store(spark, config.tables)
        self.registry = Registry(self.store)
        self.ctx = make_context(config, spark)
        self._artifacts: dict[str, Artifact] = {}
        self._cells: DataFrame | None = None
        # While a run is at work: fingerprints of which it left nothing to do.
        self._finished: set[str | None] | None = None
        # While a new generation of the index is asked for and not there.
        self._refresh = False
        # Rows by (outcome, code) of each table, as the last run of its step saw them.
        self.outcomes: dict[str, Mapping[tuple[str, str | None], int]] = {}

    # --- identity -------------------------------------------------------------------------------------------------

    def artifact(self, step: Stage) -> Artifact | None:
        """The artifact of a step under this config, or None while something upstream does not exist yet."""
        if step.writes not in self._artifacts:
            resolved = self._resolve(step)
            if resolved is None:
                return None
            self._artifacts[step.writes] = resolved
        return self._artifacts[step.writes]

    def _resolve(self, step: Stage) -> Artifact | None:
        if "model" in step.models and not self._resolve_dtype():
            return None
        upstream = {}
        for table in step.hashed_upstream:
            known = self.fingerprint(table)
            if known is None:
                return None
            upstream[table] = known
        config = self.config.semantic(*step.config)
        if self.ctx.excluded is not None and EXCLUDE in step.config:
            config[EXCLUDE] = self.ctx.excluded.content  # a hash: the files may move
        models = {name: self._model_hash(name) for name in step.models}
        pinned = self._pinned(step, config, upstream)
        if pinned is None:
            return None
        value = fingerprint(step.writes, step.version, config, models, upstream, pinned)
        recorded = self.registry.get(value)
        # An index stays on the snapshot it was begun on; other stages read what stands there now.
        at_start = recorded.input_versions if recorded and step.writes == "index" else None
        versions = at_start or {table: self.store.version(table) for table in step.reads}
        return Artifact(value, step.name, step.writes, config, models, upstream, versions, pinned)

    def fingerprint(self, table: str) -> str | None:
        """The active fingerprint of a table (or of the index), resolved once."""
        if table not in self.ctx.fingerprints:
            artifact = self.artifact(step_writing(table))
            if artifact is None:
                return None
            self.ctx.fingerprints[table] = artifact.fingerprint
            if table == "index":
                self._open_index(artifact.fingerprint)
        return self.ctx.fingerprints[table]

    def _model_hash(self, name: str) -> str:
        worker = self.ctx.causal_lm if name == "model" else self.ctx.encoder
        return f"{worker.fingerprint}:{worker.dtype}"

    def _pinned(self, step: Stage, config: Mapping[str, Any], upstream: Mapping[str, str]) -> dict[str, Any] | None:
        """What is resolved once and hashed: the snapshot of an index, the content that packing starts from."""
        if step.writes == "index":
            # The generation that is in use stays, whatever arrived since: new corpus text takes effect by a new one.
            built = None if self._refresh else self.registry.latest("index", config, upstream)
            return dict(built.pinned) if built else None
        if step.writes == "sequences":
            self.resolve_roots()
            if self.ctx.root_threshold is None:
                return None
            return packed_from(self, self.frames(step))
        return {}

    def _open_index(self, value: str) -> None:
        directory = self.workspace.index(value)
        if (directory / MANIFEST).is_file():
            handle = IndexHandle(str(directory), value, file_sha256(directory / MANIFEST), self.ctx.causal_lm.node_cache)
            self.ctx = self.ctx.with_(index=handle)

    def resolve_roots(self) -> None:
        """The threshold on the hash of doc_id that chooses roots, once there are documents."""
        documents = self.fingerprint("documents")
        if self.ctx.root_threshold is None and documents is not None:
            # Only a run that has read all documents may pin: a look at a half-read corpus must decide nothing.
            may_pin = self._finished is not None and self._is_whole(step_writing("documents"))
            self.ctx = self.ctx.with_(root_threshold=root_threshold(self, documents, may_pin))

    def _resolve_dtype(self) -> bool:
        dtype = body_dtype(self, may_pin=self._finished is not None)
        if dtype is not None and dtype != self.ctx.causal_lm.dtype:
            self.ctx = self.ctx.with_(causal_lm=replace(self.ctx.causal_lm, dtype=dtype))
        return dtype is not None

    # --- what is behind -------------------------------------------------------------------------------------------

    def frames(self, step: Stage) -> Frames:
        """The ok rows of each input table under its active fingerprint."""
        frames = {}
        for table in step.reads:
            value = self.fingerprint(table)
            frame = self.store.read_ok(table, value or "-")
            # Not gains: roots whose ids are cut alike share a reading, which bears the id of one of them; pairs choose them.
            if step.writes == "sequences" and "root_id" in frame.columns and table != "gains":
                self.resolve_roots()
                frame = frame.where(is_chosen(self.ctx))
            frames[table] = frame
        return frames

    def _is_whole(self, step: Stage) -> bool:
        """Whether every key that a step has to do now is done; of files, whether they were all read once."""
        artifact = self.artifact(step)
        if artifact is None:
            return False
        if artifact.fingerprint in (self._finished or ()):
            return True
        if step.kind in (Kind.FILES, Kind.WHOLE):
            return self.registry.is_complete(artifact.fingerprint)
        counts = self.counts(step, outcomes=False)
        return counts is not None and counts.left == 0

    def _require_whole(self, step: Stage) -> None:
        """What is computed from half of a table could not be told from a result later."""
        for table in step.needs_whole:
            feeder = step_writing(table)
            if not self._is_whole(feeder):
                raise NothingToDo(
                    f"{step.name}: stage {feeder.name} is not finished; run it first: entropylong run {feeder.name} ..."
                )
        if step.choice(self.ctx) is not None and self.config.roots.limit and not self._is_whole(step_writing("documents")):
            raise NothingToDo(
                f"{step.name}: roots.limit chooses among all documents; finish them first: entropylong run ingest ..."
            )

    def cells(self) -> DataFrame:
        """The judged cells of the current roots, computed once a run."""
        if self._cells is None:
            frames = self.frames(step_writing("sequences"))
            self._cells = judged_cells(frames, self.config).persist(StorageLevel.DISK_ONLY)
        return self._cells

    def counts(self, step: Stage, outcomes: bool = True) -> Counts | None:
        """Keys in and left, and the output's rows by outcome; None while something upstream does not exist yet."""
        artifact = self.artifact(step)
        if artifact is None:
            return None
        value = artifact.fingerprint
        found = dispatch.outcome_counts(self.store.read(step.writes, value)) if outcomes and step.writes != "index" else {}
        if step.kind is Kind.FILES:
            left = len(dispatch.units_left(self.store, self.config, value)) + len(dispatch.tables_left(self, value))
            return Counts(sum(found.values()) + left, left, found)
        if step.kind is Kind.WHOLE:
            is_there = serves(self, value) if step.writes == "index" else self.store.exists(step.writes)
            return Counts(1, 0 if is_there and self._is_whole(step) else 1, found)
        self.resolve_roots()
        if self.ctx.root_threshold is None:
            return Counts(0, 0, found)
        rows_in, left = dispatch.key_counts(step, self.ctx, self.frames(step), self.store.read(step.writes, value))
        return Counts(rows_in, left, found)

    # --- running --------------------------------------------------------------------------------------------------

    def run(self, names: Sequence[str] = (), announce: Any = print) -> RunResult:
        """Run the named stages (all for none) that are behind, in order.

        Raises:
            EntropyLongError: with one line that says what to do.
        """
        with self.workspace.locked():
            self._look_again(announce)
            self._finished = set()
            try:
                return self._run(steps_of(list(names)), announce, self._finished)
            finally:
                self._finished = None

    def refresh(self, announce: Any = print) -> bool:
        """A new generation of the index, over all corpus text that is there now; later runs search in it.

        Candidates of the old one stay beside the new; of their pairs, what was measured is not measured again.

        Returns:
            Whether the corpus had changed, so that there is a new generation.
        """
        before = self.fingerprint("index")
        self.run(["ingest", "chunk", "embed"], announce)
        with self.workspace.locked():
            self._look_again(announce)
            self._refresh, self._finished = True, set()
            try:
                self._run(steps_of(["index"]), announce, self._finished)
                return self.fingerprint("index") != before
            finally:
                self._refresh, self._finished = False, None

    def _look_again(self, announce: Any) -> None:
        """Nothing that was seen before the lock was held may decide what a run does."""
        self.store.forget_versions()
        self.registry.reload()
        self.ctx = self.ctx.with_(fingerprints={}, root_threshold=None, index=None, say=announce)
        self._artifacts.clear()
        if self._cells is not None:
            self._cells.unpersist()
            self._cells = None

    def _run(self, steps: Sequence[Stage], announce: Any, finished: set[str | None]) -> RunResult:
        if not self.config.sources:
            raise ConfigError("the config names no source; give --input PATH_OR_TABLE, or sources.<name>.path in the file")
        from entropylong.pipeline.metrics.compute import keep_figures, latest_figures

        result = RunResult(run_id=uuid.uuid4().hex[:12])
        with Tracker(self.config, result.run_id) as tracker:
            try:
                for step in steps:
                    done = self._run_step(step, tracker, announce)
                    finished.add(self.fingerprint(step.writes))
                    if done is not None:
                        result.steps.append(done)
            finally:
                self.registry.flush()
            self.store.refresh_views(self.ctx.fingerprints)
            # A kill after packing leaves sequences without figures: they are made up for.
            if steps[-1].writes == "sequences":
                if known := {} if result.steps else latest_figures(self):
                    keep_figures(self, known)
                else:
                    result.figures = self.figures_of_run(result, tracker)
        return result

    def _run_step(self, step: Stage, tracker: Tracker, announce: Any) -> StepResult | None:
        index_missing = step.writes == "index" and self.artifact(step) is None
        counts = Counts(1, 1) if index_missing else self.counts(step)
        if counts is None:
            raise NothingToDo(f"{step.name}: an earlier stage has not run yet; run all stages: entropylong run --config FILE")
        if counts.left:
            self._require_whole(step)
        self._require_input(step, counts)
        label = step.name if step.writes not in ("query_vectors",) else "search (queries)"
        if counts.left == 0:
            announce(f"{label}: up to date")
            # After a kill at the very end all keys are there, only the note is not.
            if (known := self.registry.get(self.fingerprint(step.writes) or "-")) is not None:
                self.registry.complete(known)
            self.outcomes[step.writes] = counts.outcomes
            require_few_errors(step.name, counts, self.config.quarantine.max_rate)
            return None
        started = time.monotonic()
        with tracker.stage(label) as stage_run, step_progress(self.spark, label, counts.left, step.counted) as progress:
            artifact = self._start(step)
            self.ctx.meter.reset()
            dispatch.drive(step, self, artifact, progress)
            if step.kind in (Kind.STREAM, Kind.BATCH) and progress.left > 0:
                raise TableError(f"{label}: {progress.left} of {counts.left} keys were not computed; run the same command again")
            self.registry.complete(artifact)
            if step.kind is Kind.WHOLE:
                self.registry.flush()  # for an index or a packing this note is what says that it is whole
            seconds = time.monotonic() - started
            after = self._after(step, artifact, counts)
            usage = self.ctx.meter.usage(seconds * self.ctx.cores)
            stage_run.finish(step, artifact, self, after, {"seconds": seconds, **usage})
        what = f"{counts.left:,} {step.counted}" if step.counted else "done"
        announce(f"{label}: {what if counts.left != 1 else what.removesuffix('s')} in {seconds:.1f} s{after.refused}")
        if after.errors:
            announce(f"{label}: in quarantine: {after.errors}; see why with `entropylong quarantine` and the same arguments")
        self._require_input(step, after)
        require_few_errors(step.name, after, self.config.quarantine.max_rate)
        return StepResult(step, artifact.fingerprint, counts.rows_in, counts.left, seconds, usage)

    def _after(self, step: Stage, artifact: Artifact, before: Counts) -> Counts:
        found = {} if step.writes == "index" else dispatch.outcome_counts(self.store.read(step.writes, artifact.fingerprint))
        self.outcomes[step.writes] = found
        return Counts(before.rows_in, 0, found)

    def _start(self, step: Stage) -> Artifact:
        artifact = self.artifact(step)
        if artifact is None:  # a generation of the index: its snapshot is pinned now
            artifact = new_index_artifact(step, self)
            self._refresh = False  # from now on it is this one that is resolved
        self.registry.record(artifact, again=step.writes == "sequences")
        if step.writes not in ("index",):
            self.store.create(step.writes)
        return artifact

    def _require_input(self, step: Stage, counts: Counts) -> None:
        if step.kind in (Kind.STREAM, Kind.BATCH) and counts.rows_in == 0:
            if step.only_unmeasured and self.frames(step)[step.reads[0]].head(1):
                return
            raise NothingToDo(dispatch.why_empty(step, self))
        if step.kind is Kind.FILES and counts.left == 0 and counts.rows_out == 0:
            said = ", ".join(f"{n} {code}" for (_, code), n in counts.outcomes.items())
            raise NothingToDo(f"ingest: the sources hold no usable document ({said or 'no record at all'})")

    def figures_of_run(self, result: RunResult, tracker: Tracker) -> dict[str, float]:
        from entropylong.pipeline.metrics.compute import compute_figures, write_figures

        figures = compute_figures(self, result)
        write_figures(self, result.run_id, figures)
        tracker.figures(figures)
        return figures
