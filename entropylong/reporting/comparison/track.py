"""A comparison in MLflow: one run with the page and the overall differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from entropylong.config import Config
from entropylong.reporting.comparison.collect import Run
from entropylong.reporting.comparison.sections import Compared
from entropylong.tracking.mlflow import log_once
from entropylong.utils.hashing import digest

TAG = "entropylong.comparison"


def identity(runs: Sequence[Run]) -> str:
    """Of the results that are compared, their names and places: the same again are the same comparison."""
    return digest([run.digest for run in runs])


def track(config: Config, runs: Sequence[Run], compared: Sequence[Compared], page: Path) -> None:
    """Log a comparison, once.

    Raises:
        SetupError: the store cannot be reached.
    """
    metrics: dict[str, float] = {}
    for pair in compared:
        # The overall one; the page has the others. Runs go by their places: MLflow's names do not take every character.
        for row in pair.rows[:1]:
            values = {"difference": row.difference, "pairs": float(row.pairs)}
            values |= dict(zip(("low", "high"), row.interval, strict=True)) if row.interval else {}
            metrics |= {f"{pair.benchmark}.{name}_{pair.other}": value for name, value in values.items()}
    params = {f"run_{place}": f"{run.name} ({', '.join(map(str, run.places))})" for place, run in enumerate(runs)}
    name = f"compare-{identity(runs)}"
    log_once(config.tracking, TAG, identity(runs), name, {}, params, metrics, (page,))
