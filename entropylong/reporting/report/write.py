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
    from entropylong.pipeline.state import PipelineState

REPORT = "report.html"


def report_html(state: PipelineState, telling: Callable[[str], AbstractContextManager[object]] = nullcontext) -> str:
    """The page's text.

    Args:
        state: of the workspace.
        telling: gets what is at work, and is open as long as it is.

    Raises:
        NothingToDoError: nothing is packed under this config.
    """
    with telling("report, 1 of 2: counting what is in the tables"):
        data = gather(state)
    with telling("report, 2 of 2: reading contexts again without each of their sentences, for the roots that are shown"):
        roots = gallery(state)
    return report_page(data, roots, state.config.accept.epsilon, state.config.accept.rule)


def write_report(state: PipelineState, out: Path | None = None) -> Path:
    """Write it; for `out` None beside the figures of the run that packed.

    Raises:
        NothingToDoError: nothing is packed under this config.
        UsageError: it cannot be written there.
    """
    text = report_html(state, phase)
    value = state.fingerprint("sequences") or ""
    file = out or state.workspace.metrics(state.config.pack.recipe, value) / REPORT
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        raise UsageError(f"report: cannot write {file}: {error.strerror}") from None
    return file


def log_report(state: PipelineState, file: Path) -> str | None:
    """Attach it to the MLflow run that packed; gives that run's id, None where this store has no such run."""
    return attach(state.config.tracking, latest_run(state)[0], file)
