"""MLflow: a parent run a pipeline run, a child a stage, datasets tied to Delta versions and fingerprints.

Nothing is created before a stage has work, so a run with nothing new leaves no trace.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import entropylong
from entropylong.config import Config
from entropylong.config.schema import TrackingConfig, walk
from entropylong.core.results import Counts
from entropylong.errors import SetupError
from entropylong.storage.artifacts import Artifact
from entropylong.storage.schemas import TABLES
from entropylong.storage.store import Store
from entropylong.utils.hashing import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run


_COLUMN_TYPES = {"STRING": "string", "INT": "integer", "BIGINT": "long", "FLOAT": "float", "DOUBLE": "double", "BINARY": "binary"}
_RUN = "mlflow.json"
_CREDENTIALS = re.compile(r"//[^/@]+@")


def connect(tracking: TrackingConfig) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the experiment, made if it is not there.

    Raises:
        SetupError: the store cannot be reached.
    """
    # MLflow reports its use to its makers unless told not to; a data team's cluster should not.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        own = tracking.uri.startswith("sqlite:")
        place = Path(tracking.artifacts).absolute().as_uri() if own else None
        return client, experiment.experiment_id if experiment else client.create_experiment(tracking.experiment, place)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise SetupError(f"MLflow store {redact(tracking.uri)}: {redact(reason)}; mend tracking.uri") from error


def kept_run(folder: Path, tracking: TrackingConfig) -> str | None:
    """The run of this store that a folder's results were logged to, if one was."""
    file = folder / _RUN
    record = json.loads(file.read_text()) if file.is_file() else {}
    return record["run_id"] if record.get("store") == digest(tracking.uri) else None


def keep_run(folder: Path, tracking: TrackingConfig, run_id: str) -> None:
    """Remember it there; of the store a hash, as its address may hold a password."""
    (folder / _RUN).write_text(json.dumps({"store": digest(tracking.uri), "run_id": run_id}))


def run_of(client: MlflowClient, experiment: str, tag: str, value: str, name: str, kind: Mapping[str, str]) -> Run:
    """The run whose tag has this value; it is made, by that name and with further tags, if there is none."""
    runs = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return runs[0] if runs else client.create_run(experiment, run_name=name, tags={**kind, tag: value})


def log_once(
    tracking: TrackingConfig, tag: str, value: str, name: str, kind: Mapping[str, str], params: Mapping[str, Any],
    metrics: Mapping[str, float], files: Sequence[Path],
) -> str:  # fmt: skip
    """One run for a result, however often it is logged, also if that was broken off before; gives its id.

    Args:
        tracking: the store.
        tag, value: which name the result among all runs.
        name, kind: of the run, and its other tags.
        params, metrics, files: of the result; they must be the same each time.

    Raises:
        SetupError: the store cannot be reached.
    """
    client, experiment = connect(tracking)
    run = run_of(client, experiment, tag, value, name, kind)
    # Once more, params and files are the same; a metric would have two values.
    log(client, run.info.run_id, params, {} if run.data.metrics else metrics)
    for file in files:
        client.log_artifact(run.info.run_id, str(file))
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def attach(tracking: TrackingConfig, run_id: str, file: Path) -> str | None:
    """Log a file to the parent run of a pipeline run; gives the MLflow run's id, None where the store has no such run.

    Raises:
        SetupError: the store cannot be reached.
    """
    client, experiment = connect(tracking)
    runs = client.search_runs([experiment], f"tags.`entropylong.run_id` = '{run_id}'", max_results=100)
    parents = [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
    if not parents:
        return None
    client.log_artifact(parents[0], str(file))
    return str(parents[0])


@dataclass(frozen=True)
class Dataset:
    """The rows of a fingerprint in a table, at a Delta version (None: the newest)."""

    table: str
    fingerprint: str
    version: int | None


class Tracker:
    """Context manager of the parent run. It is opened by the first stage that has work.

    Args:
        config: its `tracking` section names the store; the whole of it becomes params.
        run_id: id of the pipeline run, as in `metrics`.
    """

    def __init__(self, config: Config, run_id: str) -> None:
        self._config, self._run_id = config, run_id
        self._client: MlflowClient | None = None
        self._parent = self._experiment = ""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if self._client is not None:
            if value is not None:
                self._client.set_tag(self._parent, "error", str(value)[:5000])
            self._client.set_terminated(self._parent, "FINISHED" if kind is None else "FAILED")

    def _open(self) -> MlflowClient:
        if self._client is not None:
            return self._client
        client, self._experiment = connect(self._config.tracking)
        tags = {"entropylong.run_id": self._run_id, "entropylong.version": entropylong.__version__}
        self._parent = client.create_run(self._experiment, run_name=f"run-{self._run_id}", tags=tags).info.run_id
        log(client, self._parent, params=dict(walk(self._config.model_dump())))
        self._client = client
        return client

    @contextmanager
    def stage(self, label: str) -> Iterator[StageRun]:
        """The child run of a stage."""
        client = self._open()
        tags = {"mlflow.parentRunId": self._parent, "entropylong.run_id": self._run_id}
        run_id = client.create_run(self._experiment, run_name=label, tags=tags).info.run_id
        try:
            yield StageRun(client, run_id, self._parent)
        except BaseException as error:
            client.set_tag(run_id, "error", str(error)[:5000])
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)

    def log_metrics(self, figures: Mapping[str, float]) -> None:
        """The figures of the run as metrics of the parent."""
        client = self._open()
        log(client, self._parent, metrics=figures)
        client.log_dict(self._parent, dict(figures), "figures.json")


class StageRun:
    """One stage's child run."""

    def __init__(self, client: MlflowClient, run_id: str, parent: str) -> None:
        self._client, self._run_id, self._parent = client, run_id, parent

    def finish(
        self, store: Store, artifact: Artifact, read: Sequence[Dataset], written: Sequence[Dataset], counts: Counts,
        measured: Mapping[str, float],
    ) -> None:  # fmt: skip
        """Log params, metrics, and the tables read and written at their Delta versions."""
        client, run = self._client, self._run_id
        metrics = {**measured, "keys_in": counts.rows_in, "rows_ok": counts.rows_out, "rows_error": counts.errors}
        metrics |= {f"rows_{outcome}_{code}": n for (outcome, code), n in counts.outcomes.items() if code}
        log(client, run, {"fingerprint": artifact.fingerprint, **artifact.config, **artifact.models}, metrics)
        inputs, outputs = (
            [dataset(store, one, context) for one in some] for some, context in ((read, "input"), (written, "output"))
        )
        client.log_inputs(run, inputs + outputs)
        client.log_inputs(self._parent, outputs)


def log(
    client: MlflowClient, run: str, params: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None
) -> None:
    """Params (credentials in them blotted out) and metrics of a run, in batches: one call a value takes seconds in all."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    numbers = [Metric(_param(name), float(number), now, 0) for name, number in (metrics or {}).items()]
    client.log_batch(run, metrics=numbers)
    texts = [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for key, value in (params or {}).items()
    ]
    entries = [Param(_param(key), redact(text)[:6000]) for key, text in texts]
    for start in range(0, len(entries), 100):
        client.log_batch(run, params=entries[start : start + 100])


def dataset(store: Store, rows: Dataset, context: str) -> DatasetInput:
    """Give a table at a Delta version as an MLflow dataset; the digest is our fingerprint, so nothing is counted again."""
    from mlflow import entities

    table, value, version = rows.table, rows.fingerprint, rows.version
    at = store.version(table) if version is None or version < 0 else version
    columns = [
        {"name": name, "type": _COLUMN_TYPES.get(ddl, "string"), "required": False} for name, ddl, _ in TABLES[table].columns
    ]
    source: dict[str, Any] = {"delta_table_name" if store.in_catalog else "path": store.place(table), "delta_table_version": at}
    return entities.DatasetInput(
        entities.Dataset(
            name=f"{table}@v{at}",
            digest=value,
            source_type="delta_table",
            source=json.dumps(source),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"fingerprint": value, "version": at}),
        ),
        [entities.InputTag("mlflow.data.context", context)],
    )


def redact(text: str) -> str:
    """A text, or an address, without the credentials in it."""
    return _CREDENTIALS.sub("//***@", text)


def _param(key: str) -> str:
    return re.sub(r"[^\w./ -]", "_", key)
