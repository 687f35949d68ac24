"""An evaluation in MLflow: one run a folder of answers, with what its scores depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entropylong.config import Config
from entropylong.hashing import digest
from entropylong.tracking import connect, log

_FILE = "mlflow.json"


def track(config: Config, benchmark: str, folder: Path, facts: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """Log scores, once: the same answers again are the same run.

    Raises:
        EnvironmentProblem: the store cannot be reached.
    """
    client, experiment = connect(config.tracking)
    file, store = folder / _FILE, digest(config.tracking.uri)  # which may hold a password
    if file.is_file() and json.loads(file.read_text()).get("store") == store:
        return
    run = client.create_run(experiment, run_name=f"{benchmark}-{folder.name}", tags={"entropylong.evaluation": benchmark})
    log(client, run.info.run_id, params=dict(facts), metrics=dict(figures))
    for kept in sorted(folder.glob("scores.json")):
        client.log_artifact(run.info.run_id, str(kept))
    client.set_terminated(run.info.run_id)
    file.write_text(json.dumps({"store": store, "run_id": run.info.run_id}))
