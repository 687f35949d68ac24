"""Rows that kill their Python worker: found by halving a unit of work, each half a commit, the row itself refused. Driver side.

What raises is dealt with where it is raised (isolate.py); a worker that is gone can only be missed by the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.stage import RowStage
from entropylong.errors import SetupError, WorkerDiedError
from entropylong.pipeline.state import PipelineState
from entropylong.storage.schemas import NAMES
from entropylong.storage.writer import Writer
from entropylong.utils.isolation import refused

logger = logging.getLogger(__name__)

CODE = "WORKER_DIED"
# Rows of a unit that may be refused so. More, and it is the machine that kills workers.
MOST_ROWS = 16


def append_or_isolate(
    state: PipelineState,
    stage: RowStage,
    writer: Writer,
    rows: DataFrame,
    build: Callable[[DataFrame], DataFrame],
) -> None:
    """Build and append a unit. Where a worker dies at it, its halves, down to a row that does it alone twice: that is refused.

    Args:
        state: State of the workspace.
        stage: Step whose output it is.
        writer: writer of the output.
        rows: driving rows of the unit.
        build: driving rows -> output rows.

    Raises:
        SetupError: workers die at too many rows.
    """
    try:
        writer.append(build(rows))
    except WorkerDiedError:
        logger.info("%s: a Python worker died; looking for the row that did it", stage.name)
        count = [0]
        _halves(state, stage, writer, rows, build, 0, count)
        logger.info("%s: %d row(s) refused as %s, all others done", stage.name, count[0], CODE)


def _halves(
    state: PipelineState, stage: RowStage, writer: Writer, rows: DataFrame, build: Callable[[DataFrame], DataFrame],
    depth: int, count: list[int],
) -> None:  # fmt: skip
    named = F.xxhash64(*[name for name in NAMES if name in rows.columns])
    for bit in (0, 1):
        half = rows.where(F.shiftrightunsigned(named, depth).bitwiseAND(F.lit(1).cast("bigint")) == bit)
        size = half.count()
        if not size:
            continue
        try:
            writer.append(build(half))
        except WorkerDiedError:
            if size > 1 and depth < 63:
                _halves(state, stage, writer, half, build, depth + 1, count)
                continue
            count[0] += 1
            if count[0] > MOST_ROWS:
                raise SetupError(
                    f"{stage.name}: Python workers die at more than {MOST_ROWS} rows of a unit; is their memory too small? "
                    "(run.batch_tokens, spark.executor.memoryOverhead; the system's log names what it killed)"
                ) from None
            reason = refused(CODE, "a Python worker died at this row alone, after it died at the rows around it")
            lost = stage.refuse(state.context, half).withColumns({column: F.lit(text) for column, text in reason.items()})
            writer.append(lost)
