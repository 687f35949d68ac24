"""A workspace -> its report, in a file and in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from entropylong.errors import UsageError
from entropylong.pipeline.metrics.compute import latest_run
from entropylong.reporting.report.gallery import gallery
from entropylong.reporting.report.gather import gather
from entropylong.reporting.report.page import report_page
from entropylong.tracking.mlflow import attach
from entropylong.utils.files import write_whole
from entropylong.utils.progress import phase

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner

REPORT = "report.html"


def report_html(runner: Runner, telling: Callable[[str], AbstractContextManager[object]] = nullcontext) -> str:
    """The page's text.

    Args:
        runner: of the workspace.
        telling: gets what is at work, and is open as long as it is.

    Raises:
        NothingToDo: nothing is packed under this config.
    """
    with telling("report, 1 of 2: counting what is in the tables"):
        found = gather(runner)
    with telling("report, 2 of 2: reading contexts again without each of their sentences, for the roots that are shown"):
        roots = gallery(runner)
    return report_page(found, roots, runner.config.accept.epsilon, runner.config.accept.rule)


def write_report(runner: Runner, out: Path | None = None) -> Path:
    """Write it; for `out` None beside the figures of the run that packed.

    Raises:
        NothingToDo: nothing is packed under this config.
        UsageError: it cannot be written there.
    """
    text = report_html(runner, phase)
    value = runner.fingerprint("sequences") or ""
    file = out or runner.workspace.figures(runner.config.pack.recipe, value) / REPORT
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        raise UsageError(f"report: cannot write {file}: {error.strerror}") from None
    return file


def log_report(runner: Runner, file: Path) -> str | None:
    """Attach it to the MLflow run that packed; gives that run's id, None where this store has no such run."""
    return attach(runner.config.tracking, latest_run(runner)[0], file)
