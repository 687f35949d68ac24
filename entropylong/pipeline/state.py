"""A workspace under one config: its tables, its artifacts, and what every step resolves to. It drives nothing.

Readers (status, report, checks) and drivers alike take a `PipelineState`; the runner adds the lock and the order of events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from entropylong.config import Config
from entropylong.core.context import Frames
from entropylong.core.stage import Stage
from entropylong.corpus.exclusion import EXCLUDE
from entropylong.corpus.selection import is_chosen
from entropylong.errors import NothingToDoError
from entropylong.packing.stage import PACK
from entropylong.pipeline.context_factory import make_context
from entropylong.pipeline.known import Kind, Known, KnownCounts
from entropylong.pipeline.resolve import body_dtype, root_threshold
from entropylong.pipeline.steps import step_writing
from entropylong.storage.artifacts import Artifact, Registry, fingerprint
from entropylong.storage.codes import Outcomes
from entropylong.storage.store import Store
from entropylong.storage.workspace import Workspace
from entropylong.verification.readings import judged_readings


class PipelineState:
    """One workspace under one config.

    Args:
        config: The configuration.
        spark: The session.

    Attributes:
        finished: Fingerprints of which the run at work has left nothing to do; None outside of a run.
        new_generation: Whether a new generation of the index is requested and not begun.
        outcomes: Rows by (outcome, code) of each table, as the last run of its step saw them.
    """

    def __init__(self, config: Config, spark: SparkSession) -> None:
        self.config, self.spark = config, spark
        self.workspace = Workspace(config.workspace)
        self.store = Store(spark, config.tables)
        self.registry = Registry(self.store)
        self.known = KnownCounts(self.workspace.known_counts, self.commit)
        self.context = make_context(config, spark)
        self.finished: set[str] | None = None
        self.new_generation = False
        self.outcomes: dict[str, Outcomes] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._readings: DataFrame | None = None

    def forget(self) -> None:
        """Forget all that was resolved: nothing that was seen before the lock was held may decide what a run does."""
        self.store.forget_versions()
        self.registry.reload()
        self.known.reload()
        self.context = self.context.with_(fingerprints={}, root_threshold=None, index=None)
        self._artifacts.clear()
        self.outcomes.clear()
        if self._readings is not None:
            self._readings.unpersist()
            self._readings = None

    # --- identity -------------------------------------------------------------------------------------------------

    def artifact(self, stage: Stage) -> Artifact | None:
        """Resolve the artifact of a step under this config; None while something upstream does not exist yet."""
        if stage.writes not in self._artifacts:
            resolved = self._resolve(stage)
            if resolved is None:
                return None
            self._artifacts[stage.writes] = resolved
        return self._artifacts[stage.writes]

    def begin(self, stage: Stage) -> Artifact:
        """Resolve the artifact of a step that a run starts, and pin what it is computed from.

        Raises:
            NothingToDoError: an earlier stage has not run.
        """
        artifact = self.artifact(stage) or self._resolve(stage, stage.snapshot(self))
        if artifact is None:
            raise nothing_before(stage)
        self.new_generation = False  # from now on it is the generation that is begun here
        return artifact

    def fingerprint(self, table: str) -> str | None:
        """Resolve the active fingerprint of a table (or of the index), once."""
        if table not in self.context.fingerprints:
            stage = step_writing(table)
            artifact = self.artifact(stage)
            if artifact is None:
                return None
            self.context.fingerprints[table] = artifact.fingerprint
            if handles := stage.handles(self, artifact.fingerprint):
                self.context = self.context.with_(**handles)
        return self.context.fingerprints[table]

    def commit(self, table: str) -> str:
        """The active fingerprint of a table, and its newest commit as this state saw it."""
        return f"{self.fingerprint(table)} {self.store.commit(table)}"

    def count_outcomes(self, table: str) -> Outcomes:
        """Count the rows of a table under its active fingerprint by (outcome, code), unless a run noted them."""
        value = self.fingerprint(table)
        if value is not None and (known := self.known.get(Kind.ROWS, value, table)) is not None:
            self.store.know_outcomes(table, value, known.by_outcome)
        return self.store.outcomes(table, value)

    def note_outcomes(self, table: str, outcomes: Outcomes) -> None:
        """Keep them for later runs."""
        if (value := self.fingerprint(table)) is not None:
            rows = tuple((outcome, code, number) for (outcome, code), number in outcomes.items())
            self.note(Kind.ROWS, value, table, Known({table: self.commit(table)}, outcomes=rows))

    def note(self, kind: Kind, fingerprint: str, decided_by: str, known: Known) -> None:
        """Keep for later runs what this one found; whoever only reads keeps nothing."""
        if self.finished is not None:
            self.known.note(kind, fingerprint, decided_by, known)

    def known_content(self, fingerprint: str, decided_by: str, tables: Sequence[str], find: Callable[[], str]) -> str:
        """Give a hash of what stands in tables: as a run noted it, while they are as they were; else found anew."""
        if (known := self.known.get(Kind.CONTENT, fingerprint, decided_by)) is not None:
            return known.content
        commits = {table: self.commit(table) for table in tables}
        content = find()
        self.note(Kind.CONTENT, fingerprint, decided_by, Known(commits, content=content))
        return content

    def resolve_roots(self) -> bool:
        """Resolve the threshold on the hash of doc_id that chooses roots; False while there is no root document."""
        documents = self.fingerprint("documents")
        if self.context.root_threshold is None and documents is not None:
            threshold = root_threshold(self.config, self.store, self.registry, documents, may_pin=self.finished is not None)
            self.context = self.context.with_(root_threshold=threshold)
        return self.context.root_threshold is not None

    def _resolve(self, stage: Stage, pinned: dict[str, Any] | None = None) -> Artifact | None:
        if "model" in stage.models and not self._resolve_dtype():
            return None
        upstream = {}
        for table in stage.hashed_upstream:
            digest = self.fingerprint(table)
            if digest is None:
                return None
            upstream[table] = digest
        config = self.config.semantic(*stage.config)
        if self.context.excluded is not None and EXCLUDE in stage.config:
            config[EXCLUDE] = self.context.excluded.content  # a hash: the files may move
        models = {name: self._model_hash(name) for name in stage.models}
        if pinned is None and (pinned := stage.pin(self, config, upstream)) is None:
            return None
        value = fingerprint(stage.writes, stage.version, config, models, upstream, pinned)
        versions = stage.input_versions(self.store, self.registry.get(value))
        return Artifact(value, stage.name, stage.writes, config, models, upstream, versions, pinned)

    def _model_hash(self, name: str) -> str:
        worker = self.context.causal_lm if name == "model" else self.context.encoder
        return f"{worker.fingerprint}:{worker.dtype}"

    def _resolve_dtype(self) -> bool:
        dtype = body_dtype(self.context, self.registry, may_pin=self.finished is not None)
        if dtype is not None and dtype != self.context.causal_lm.dtype:
            self.context = self.context.with_(causal_lm=replace(self.context.causal_lm, dtype=dtype))
        return dtype is not None

    # --- rows -----------------------------------------------------------------------------------------------------

    def rows(self, table: str) -> DataFrame:
        """Read the rows of a table under its active fingerprint, refused ones too; none while it is unresolved."""
        return self.store.read(table, self.fingerprint(table))

    def ok_rows(self, table: str) -> DataFrame:
        """Read the ok rows of a table under its active fingerprint; none while it is unresolved."""
        return self.store.read_ok(table, self.fingerprint(table))

    def frames(self, stage: Stage) -> Frames:
        """Read the ok rows of each input table of a step."""
        frames = {}
        for table in stage.reads:
            frame = self.ok_rows(table)
            if table in stage.of_chosen_roots:
                self.resolve_roots()
                frame = frame.where(is_chosen(self.context))
            frames[table] = frame
        return frames

    def readings(self) -> DataFrame:
        """Judge the readings of the current roots, once a run."""
        if self._readings is None:
            self._readings = judged_readings(self.frames(PACK), self.config).persist(StorageLevel.DISK_ONLY)
        return self._readings


def nothing_before(stage: Stage) -> NothingToDoError:
    """The error of a stage that cannot be resolved: what it reads was never made."""
    return NothingToDoError(f"{stage.name}: an earlier stage has not run yet; run all stages: entropylong run --config FILE")
