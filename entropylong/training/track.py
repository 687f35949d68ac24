"""MLflow's view of a training run: one run however often it is started, its params, its curve, its data. Driver side."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entropylong.config import Config
from entropylong.config.schema import walk
from entropylong.tracking.mlflow import Dataset, connect, dataset, keep_run, kept_run, log
from entropylong.training.data.sources import SealedFeed
from entropylong.training.steps import StepMetrics, read_steps

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_AT_ONCE = 50


class TrainingRun:
    """The MLflow run of a training run's folder: made once, opened again by each later start.

    Args:
        config: of the run.
        folder: of the training run.
        feeds: what it trains on; tables among them become datasets at their Delta version.
        facts: further params.
    """

    def __init__(self, config: Config, folder: Path, feeds: Iterable[SealedFeed], facts: Mapping[str, Any]) -> None:
        self._folder = folder
        self._client, experiment = connect(config.tracking)
        run_id = kept_run(folder, config.tracking)
        if run_id is None or not _is_there(self._client, run_id):
            tags = {"entropylong.training": folder.name}
            run_id = self._client.create_run(experiment, run_name=f"train-{folder.name}", tags=tags).info.run_id
            keep_run(folder, config.tracking, run_id)
            log(self._client, run_id, params=dict(walk(config.model_dump())) | dict(facts))
            data = [
                dataset(feed.store, Dataset("sequences", feed.manifest.fingerprint, feed.manifest.version), "train")
                for feed in feeds
                if feed.store is not None and feed.is_sequences
            ]
            if data:
                self._client.log_inputs(run_id, data)
        self.run_id: str = run_id
        self._client.set_terminated(self.run_id, "RUNNING")
        history = self._client.get_metric_history(self.run_id, "loss")
        self._is_reported = False
        self._last = max((metric.step for metric in history), default=0)

    def steps(self) -> None:
        """Put the run's steps into the curve that are not in it yet. A store that fails does not end a training."""
        if self._kept(lambda: self._log([step for step in read_steps(self._folder) if step.step > self._last])):
            self._is_reported = False

    def _kept(self, write: Callable[[], None]) -> bool:
        """Whether the store took it; if not, that is told once."""
        try:
            write()
        except Exception as error:
            if not self._is_reported:
                self._is_reported = True
                logger.warning("MLflow: %s; the steps are in steps.jsonl", " ".join(str(error).split())[:200])
            return False
        return True

    def _log(self, new: Sequence[StepMetrics]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            metrics = [
                Metric(name, float(value), now, step.step)
                for step in some
                for name, value in step.as_json().items()
                if name != "step"
            ]
            self._client.log_batch(self.run_id, metrics=metrics)
            self._last = some[-1].step

    def finish(self, status: str, model: Path | None = None, error: str = "") -> None:
        """FINISHED, with the place of the model; FAILED, with the reason; KILLED where it was asked to stop.

        A store that fails does not hide how the run ended.
        """

        def end() -> None:
            if model is not None:
                self._client.set_tag(self.run_id, "entropylong.model", str(model))
            if error:
                self._client.set_tag(self.run_id, "error", error[:5000])
            self._client.set_terminated(self.run_id, status)

        self._kept(end)


def _is_there(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False
