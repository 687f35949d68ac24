"""`entropylong evaluate ruler`: prepare, generate, score, and what is kept of it. Pure but for the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.evaluation.generation import Backend, Result, generate, run_folder
from entropylong.evaluation.ruler.material import Material
from entropylong.evaluation.ruler.prepare import LENGTHS, Row, rows_of, write_rows
from entropylong.evaluation.ruler.score import PUBLISHED, PUBLISHED_AVERAGE, TaskScore, averages, row_score, task_scores
from entropylong.evaluation.ruler.tasks import Task

LABEL = "RULER-compatible: the benchmark's prompts, sizes and scoring; names, values and places drawn by our own generator"


def evaluate_ruler(
    backend: Backend, count: Callable[[str], int], tasks: Sequence[Task], lengths: Sequence[int], samples: int, seed: int,
    material: Material, out: Path, progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Result, list[TaskScore]]:  # fmt: skip
    """Ask a model all questions that it has not answered yet, and score its answers.

    Args:
        backend: the model.
        count: tokens of a text for it, without special tokens.
        tasks, lengths, samples, seed: which questions.
        material: files that some tasks need.
        out: folder under which the run has a folder of its own, named by the questions and the model.
        progress: told (answers so far, answers in all).

    Raises:
        EvaluationError: a question does not fit, a file is missing, an endpoint fails.
    """
    rows: list[Row] = [row for length in lengths for task in tasks for row in rows_of(task, length, samples, material, count, seed)]
    facts = {**backend.facts, "benchmark": "ruler", "label": LABEL, "samples": samples, "ruler_seed": seed}
    folder = run_folder(out, backend, [asdict(row) for row in rows])
    facts["prompts"] = write_rows(rows, folder)
    answers = generate([row.prompt for row in rows], backend, folder / "answers.jsonl", progress)
    scores = task_scores(rows, answers)
    items = {row.prompt.key: (row_score(row, answers[row.prompt.key]), 1.0) for row in rows}
    return Result(folder, facts, _figures(scores)).kept([asdict(score) for score in scores], items), scores


def _figures(scores: Sequence[TaskScore]) -> dict[str, float]:
    """Flat, as MLflow takes them: ruler.<length>.<task>, ruler.<length>, ruler.average."""
    by_length = averages(scores)
    found = {f"ruler.{s.length}.{s.task}": s.score for s in scores} | {f"ruler.{n}": v for n, v in by_length.items()}
    return found | {"ruler.average": sum(by_length.values()) / len(by_length)}


def ruler_table(result: Result, scores: Sequence[TaskScore]) -> Table:
    """Scores by task and length with their 95 % intervals; the published averages below."""
    lengths = sorted({score.length for score in scores})
    table = Table(title=f"RULER-compatible, {result.facts['samples']} samples a task", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("task")
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    known = {(score.task, score.length): score for score in scores}
    for task in dict.fromkeys(score.task for score in scores):
        cells = [known[task, length] for length in lengths]
        table.add_row(task, *(f"{c.score:.1f} [{c.interval[0]:.0f}, {c.interval[1]:.0f}]" for c in cells))
    table.add_section()
    means = averages(scores)
    table.add_row("mean of these tasks", *(f"{means[length]:.2f}" for length in lengths))
    for name, published in PUBLISHED.items():
        shown = [published.get(length) for length in lengths]
        if any(value is not None for value in shown):
            table.add_row(f"published, {name} (13 tasks, 8B)", *("" if value is None else f"{value:.2f}" for value in shown))
    if lengths == list(LENGTHS):
        averages_of = ", ".join(f"{name} {value:.2f}" for name, value in PUBLISHED_AVERAGE.items())
        table.caption = f"average {result.figures['ruler.average']:.2f}; published: {averages_of}"
    return table
