"""Step `score` of RULER: predictions against references, by task, by length, and the published rows beside. Pure Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from entropylong.evaluation.ruler.prepare import Row
from entropylong.evaluation.ruler.tasks import TASKS
from entropylong.utils.intervals import Interval, mean_interval, wilson

_CONTROL = re.compile(r"[\x00-\x1f]")
# RULER averages of the EntropyLong paper: Llama-3-8B trained at 128K, lengths 8K to 128K (8192 ... 131072).
PUBLISHED: dict[str, dict[int, float]] = {
    "EntropyLong": {8192: 91.50, 16384: 90.11, 32768: 88.95, 65536: 85.04, 131072: 81.26},
    "NExtLong": {131072: 77.99},
    "Quest": {131072: 60.11},
}
# Their averages over these lengths.
PUBLISHED_AVERAGE = {"EntropyLong": 87.37, "NoVerify": 85.82, "NExtLong": 85.22, "Quest": 80.53}


@dataclass(frozen=True)
class TaskScore:
    """A task at a length: mean over its rows, x100, rounded to two decimals as RULER does before it averages."""

    task: str
    length: int
    score: float
    interval: Interval
    rows: int
    empty: int


def cleaned(prediction: str) -> str:
    """As RULER reads a prediction: stripped, control characters as newlines, stripped again."""
    return _CONTROL.sub("\n", prediction.strip()).strip()


def row_score(row: Row, prediction: str) -> float:
    """Share of the references that the prediction holds; of the reading tasks, whether it holds one. Case is ignored."""
    answer = cleaned(prediction).lower()
    hits = [reference.lower() in answer for reference in row.references]
    return float(any(hits)) if TASKS[row.task].any_reference else sum(hits) / len(hits)


def task_scores(rows: Sequence[Row], predictions: Mapping[str, str]) -> list[TaskScore]:
    """A score a task and length."""
    grouped: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.task, row.length), []).append(row)
    scores = []
    for (task, length), of_task in grouped.items():
        values = [row_score(row, predictions[row.prompt.key]) for row in of_task]
        # Of answers that are right or wrong, a bootstrap of five right ones would be sure of itself.
        low, high = wilson(int(sum(values)), len(values)) if set(values) <= {0.0, 1.0} else mean_interval(values)
        empty = sum(not cleaned(predictions[row.prompt.key]) for row in of_task)
        scores.append(TaskScore(task, length, round(100 * mean(values), 2), (100 * low, 100 * high), len(values), empty))
    return scores


def averages(scores: Sequence[TaskScore]) -> dict[int, float]:
    """Mean over the tasks, a length."""
    return {length: mean(s.score for s in scores if s.length == length) for length in sorted({s.length for s in scores})}
