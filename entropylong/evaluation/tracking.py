"""An evaluation in MLflow: one run a folder of answers, with what its scores depend on."""

from __future__ import annotations

import json

from entropylong.config import Config
from entropylong.evaluation.generation import SCORES, Result
from entropylong.hashing import digest
from entropylong.tracking import connect, log

_FILE = "mlflow.json"


def track(config: Config, benchmark: str, result: Result) -> None:
    """Log scores, once: the same answers again are the same run.

    Raises:
        EnvironmentProblem: the store cannot be reached.
    """
    client, experiment = connect(config.tracking)
    file, store = result.folder / _FILE, digest(config.tracking.uri)  # which may hold a password
    if file.is_file() and json.loads(file.read_text()).get("store") == store:
        return
    run = client.create_run(experiment, run_name=f"{benchmark}-{result.folder.name}", tags={"entropylong.evaluation": benchmark})
    log(client, run.info.run_id, params=result.facts, metrics=result.figures)
    client.log_artifact(run.info.run_id, str(result.folder / SCORES))
    client.set_terminated(run.info.run_id)
    file.write_text(json.dumps({"store": store, "run_id": run.info.run_id}))
