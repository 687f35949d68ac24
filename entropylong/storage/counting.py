"""Rows of an append by outcome and code, counted while they are written: the table is not read for it."""

from __future__ import annotations

import json
import time
from collections import Counter

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from entropylong.storage.codes import CODES, Outcomes
from entropylong.storage.schemas import ERROR, OK, SKIPPED

# Seconds for Spark's listeners, by whom the counts come after the write; of a queue that runs over they drop what is in it.
_PATIENCE = 5.0
_COUNTS = (
    f"to_json(struct(count(1) AS rows, count_if(outcome = '{OK}') AS ok, count_if(outcome = '{ERROR}') AS errors, "
    f"{', '.join(f'count_if(code = {code!r}) AS {code}' for code in CODES)}))"
)


class AppendCount:
    """The count of one append: `watch` its rows, write them, then ask for `outcomes`."""

    def __init__(self) -> None:
        self._observation = Observation()

    def watch(self, rows: DataFrame) -> DataFrame:
        """The same rows, counted when they are written."""
        return rows.observe(self._observation, F.expr(_COUNTS).alias("counts"))

    def outcomes(self) -> Outcomes | None:
        """The rows that were written; None where Spark does not say it, or not in full."""
        deadline = time.monotonic() + _PATIENCE
        try:
            # Observation.get would wait for ever for what the listeners have dropped.
            while not self._observation._jo.future().isCompleted():  # type: ignore[union-attr]
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.002)
        except Py4JError:
            return None  # another build of Spark may keep it elsewhere
        counts: dict[str, int] = json.loads(self._observation.get["counts"])
        rows, ok, errors = (counts.pop(name) for name in ("rows", "ok", "errors"))
        found: Counter[tuple[str, str | None]] = Counter({(OK, None): ok})
        found.update({(SKIPPED if CODES[code].skipped else ERROR, code): n for code, n in counts.items()})
        is_whole = found.total() == rows and sum(n for (outcome, _), n in found.items() if outcome == ERROR) == errors
        return +found if is_whole else None
