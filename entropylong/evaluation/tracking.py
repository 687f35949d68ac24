"""An evaluation in MLflow: one run a folder of answers, with what its scores depend on."""

from __future__ import annotations

from entropylong.config import Config
from entropylong.evaluation.generation import SCORES, Result
from entropylong.tracking import connect, keep_run, kept_run, log


def track(config: Config, benchmark: str, result: Result) -> None:
    """Log scores, once: the same answers again are the same run.

    Raises:
        EnvironmentProblem: the store cannot be reached.
    """
    client, experiment = connect(config.tracking)
    if kept_run(result.folder, config.tracking) is not None:
        return
    run = client.create_run(experiment, run_name=f"{benchmark}-{result.folder.name}", tags={"entropylong.evaluation": benchmark})
    log(client, run.info.run_id, params=result.facts, metrics=result.figures)
    client.log_artifact(run.info.run_id, str(result.folder / SCORES))
    client.set_terminated(run.info.run_id)
    keep_run(result.folder, config.tracking, run.info.run_id)
