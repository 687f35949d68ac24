"""An evaluation in MLflow: one run a folder of answers, with what its scores depend on."""

from __future__ import annotations

from pathlib import Path

from entropylong.config import Config
from entropylong.evaluation.results import SCORES, Result
from entropylong.tracking.mlflow import keep_run, kept_run, log_once
from entropylong.utils.hashing import digest

# Of a run: which folder it is of, as a hash, so that it is found also where the folder does not remember it.
TAG = "entropylong.result"


def track(config: Config, result: Result, *pictures: Path) -> None:
    """Log scores, once: the same answers again are the same run, also if it was broken off before it was remembered.

    Raises:
        SetupError: the store cannot be reached.
    """
    if kept_run(result.folder, config.tracking) is not None:
        return
    benchmark, place = str(result.facts["benchmark"]), digest(str(result.folder.absolute()))
    name, files = f"{benchmark}-{result.folder.name}", (result.folder / SCORES, *pictures)
    tags = {"entropylong.evaluation": benchmark}
    keep_run(result.folder, config.tracking, log_once(config.tracking, TAG, place, name, tags, result.facts, result.figures, files))
