"""The runner: the lock, the order of the steps, and what is noted of each. It knows nothing of entropy.

The first screen is `Runner.run`. `state.py` says what a step resolves to, `backlog.py` what of it is pending, `drivers/` do it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyspark.sql import SparkSession

from entropylong.config import Config
from entropylong.core.results import Counts, RunResult, StepResult, require_few_errors
from entropylong.core.stage import RowStage, Stage, WholeStage
from entropylong.errors import ConfigError, TableError
from entropylong.packing.stage import PACK
from entropylong.pipeline import backlog
from entropylong.pipeline.drivers.dispatch import drive
from entropylong.pipeline.metrics.compute import latest_metrics, metrics_by_stage, save_metrics, write_metrics
from entropylong.pipeline.state import PipelineState, nothing_before
from entropylong.pipeline.steps import steps_of
from entropylong.retrieval.stage import INDEX
from entropylong.storage.artifacts import Artifact
from entropylong.storage.codes import Outcomes
from entropylong.tracking.mlflow import Dataset, Tracker
from entropylong.utils.progress import step_progress

logger = logging.getLogger(__name__)


class Runner:
    """Runs the steps of one workspace under one config.

    Args:
        state: State of the workspace.
    """

    def __init__(self, state: PipelineState) -> None:
        self.state = state
        self.config = state.config

    @classmethod
    def open(cls, config: Config, spark: SparkSession) -> Runner:
        """Open the workspace of a config."""
        return cls(PipelineState(config, spark))

    def run(self, names: Sequence[str] = ()) -> RunResult:
        """Run the named stages (all for none) that have pending work, in order.

        Raises:
            EntropyLongError: with one line that says what to do.
        """
        with self._at_work():
            return self._run(steps_of(list(names)))

    def refresh(self) -> bool:
        """Make a new generation of the index, over all corpus text that is there now; later runs search in it.

        Candidates of the old generation stay; of their pairs, what was measured is not measured again.

        Returns:
            Whether the corpus had changed, so that there is a new generation.
        """
        before = self.state.fingerprint("index")
        self.run(["ingest", "chunk", "embed"])
        with self._at_work(new_generation=True):
            self._run([INDEX])
            return self.state.fingerprint("index") != before

    @contextmanager
    def _at_work(self, new_generation: bool = False) -> Iterator[None]:
        state = self.state
        with state.workspace.locked():
            state.forget()
            state.finished, state.new_generation = set(), new_generation
            try:
                yield
            finally:
                state.finished, state.new_generation = None, False

    def _run(self, steps: Sequence[Stage]) -> RunResult:
        state = self.state
        if not state.config.sources:
            raise ConfigError("the config names no source; give --input PATH_OR_TABLE, or sources.<name>.path in the file")
        result = RunResult(run_id=uuid.uuid4().hex[:12])
        with Tracker(state.config, result.run_id) as tracker:
            try:
                for step in steps:
                    done = self._run_step(step, tracker)
                    if (value := state.fingerprint(step.writes)) is not None and state.finished is not None:
                        state.finished.add(value)
                    if done is not None:
                        result.steps.append(done)
            finally:
                state.registry.flush()
                state.known.save(state.registry.fingerprints())
            state.store.refresh_views(state.context.fingerprints)
            # A kill after packing leaves sequences without figures: they are made up for.
            if steps[-1] is PACK:
                if metrics := {} if result.steps else latest_metrics(state):
                    save_metrics(state, metrics)
                else:
                    result.figures = self.metrics_of_run(result, tracker)
        return result

    def _run_step(self, step: Stage, tracker: Tracker) -> StepResult | None:
        state = self.state
        counts = backlog.counts(state, step)
        if counts is None and isinstance(step, WholeStage) and step.pins_at_start:
            counts = Counts(1, 1)
        if counts is None:
            raise nothing_before(step)
        if counts.left:
            backlog.require_whole(state, step)
        backlog.require_input(state, step, counts)
        if counts.left == 0:
            logger.info("%s: up to date", step.label)
            # After a kill at the very end all keys are there, only the note is not.
            if (artifact := state.registry.get(state.fingerprint(step.writes) or "-")) is not None:
                state.registry.complete(artifact)
            self._note(step, counts.outcomes)
            require_few_errors(step.name, counts, state.config.quarantine.max_rate)
            return None
        return self._drive_step(step, counts, tracker)

    def _drive_step(self, step: Stage, counts: Counts, tracker: Tracker) -> StepResult:
        state, label = self.state, step.label
        started = time.monotonic()
        with tracker.stage(label) as stage_run, step_progress(state.spark, label, counts.left, step.counted) as progress:
            artifact = self._start(step)
            state.context.meter.reset()
            drive(state, step, artifact, progress)
            if isinstance(step, RowStage) and progress.left > 0:
                raise TableError(f"{label}: {progress.left} of {counts.left} keys were not computed; run the same command again")
            state.registry.complete(artifact)
            if isinstance(step, WholeStage):
                state.registry.flush()  # for an index or a packing this note is what says that it is whole
            seconds = time.monotonic() - started
            after = self._after(step, counts, progress.total == counts.left)
            usage = state.context.meter.usage(seconds * state.context.cores)
            stage_run.finish(state.store, artifact, *self._datasets(step, artifact), after, {"seconds": seconds, **usage})
        what = f"{counts.left:,} {step.counted}" if step.counted else "done"
        logger.info("%s: %s in %.1f s%s", label, what if counts.left != 1 else what.removesuffix("s"), seconds, after.refused)
        if after.errors:
            logger.info("%s: in quarantine: %d; see why with `entropylong quarantine` and the same arguments", label, after.errors)
        backlog.require_input(state, step, after)
        require_few_errors(step.name, after, state.config.quarantine.max_rate)
        return StepResult(step, artifact.fingerprint, counts.rows_in, counts.left, seconds, usage)

    def _start(self, step: Stage) -> Artifact:
        artifact = self.state.begin(step)
        self.state.registry.record(artifact, again=step.again)
        if step.has_table:
            self.state.store.create(step.writes)
        return artifact

    def _after(self, step: Stage, before: Counts, is_as_counted: bool) -> Counts:
        by_outcome = self.state.count_outcomes(step.writes) if step.has_table else {}
        self._note(step, by_outcome)
        after = Counts(before.rows_in, 0, by_outcome)
        if is_as_counted:
            backlog.note_done(self.state, step, after)
        return after

    def _note(self, step: Stage, outcomes: Outcomes) -> None:
        self.state.outcomes[step.writes] = outcomes
        if step.has_table:
            self.state.note_outcomes(step.writes, outcomes)

    def _datasets(self, step: Stage, artifact: Artifact) -> tuple[list[Dataset], list[Dataset]]:
        """List the tables that a step has read and written, at their versions."""
        state = self.state
        inputs = [
            Dataset(table, value, artifact.input_versions.get(table))
            for table in step.reads
            # What a stage reads of its own output is no input of the run; MLflow would keep the one and forget the other.
            if table != step.writes and (value := state.fingerprint(table)) is not None and state.store.exists(table)
        ]
        written = state.fingerprint(step.writes) if step.has_table else None
        return inputs, [Dataset(step.writes, written, None)] if written else []

    def metrics_of_run(self, result: RunResult, tracker: Tracker) -> dict[str, float]:
        """Compute the figures of a run, and keep them in the workspace and in MLflow."""
        figures = write_metrics(self.state, result.run_id, metrics_by_stage(self.state, result))
        tracker.log_metrics(figures)
        return figures
