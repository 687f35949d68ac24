"""An evaluation in MLflow: one run a folder of answers, with what its scores depend on."""

from __future__ import annotations

from pathlib import Path

from entropylong.config import Config
from entropylong.evaluation.generation import SCORES, Result
from entropylong.hashing import digest
from entropylong.tracking import connect, keep_run, kept_run, log

# Of a run: which folder it is of, as a hash, so that it is found also where the folder does not remember it.
TAG = "entropylong.result"


def track(config: Config, result: Result, *pictures: Path) -> None:
    """Log scores, once: the same answers again are the same run, also if it was broken off before it was remembered.

    Raises:
        EnvironmentProblem: the store cannot be reached.
    """
    client, experiment = connect(config.tracking)
    if kept_run(result.folder, config.tracking) is not None:
        return
    benchmark, place = str(result.facts["benchmark"]), digest(str(result.folder.absolute()))
    known = client.search_runs([experiment], f"tags.`{TAG}` = '{place}'", max_results=1)
    tags = {"entropylong.evaluation": benchmark, TAG: place}
    run = known[0] if known else client.create_run(experiment, run_name=f"{benchmark}-{result.folder.name}", tags=tags)
    # Once more, params and files are the same; a metric would have two values.
    log(client, run.info.run_id, params=result.facts, metrics={} if run.data.metrics else result.figures)
    for file in (result.folder / SCORES, *pictures):
        client.log_artifact(run.info.run_id, str(file))
    client.set_terminated(run.info.run_id)
    keep_run(result.folder, config.tracking, run.info.run_id)
