"""`entropylong evaluate ruler`: prepare, generate, score, and what is kept of it. Pure but for the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.evaluation.generation import Answers, Backend, run_folder
from entropylong.evaluation.results import Result
from entropylong.evaluation.ruler.material import Material
from entropylong.evaluation.ruler.parts import Counter, prepare
from entropylong.evaluation.ruler.prepare import LENGTHS
from entropylong.evaluation.ruler.score import PUBLISHED, PUBLISHED_AVERAGE, TaskScore, averages, row_score, task_scores
from entropylong.evaluation.ruler.tasks import TASKS, Task

Progress = Callable[[int, int], None]
# RULER's own table averages 4K to 128K; this is the EntropyLong paper's.
AVERAGE = "ruler.average_8k_128k"
LABEL = "RULER-compatible: the benchmark's prompts, sizes and scoring; names, values and places drawn by our own generator"


def evaluate_ruler(
    backend: Backend, counter: Counter, tasks: Sequence[Task], lengths: Sequence[int], samples: int, seed: int,
    material: Material, out: Path, preparing: Progress = lambda done, total: None, asking: Progress = lambda done, total: None,
) -> tuple[Result, list[TaskScore]]:  # fmt: skip
    """Ask a model all questions that it has not answered yet, and score its answers.

    Args:
        backend: the model.
        counter: of its tokens.
        tasks, lengths, samples, seed: which questions.
        material: files that some tasks need.
        out: folder of the prompts, in which the run has a folder of its own, named by them and the model.
        preparing: told (prompts so far, prompts in all).
        asking: told (answers so far, answers in all).

    Raises:
        EvaluationError: a question does not fit, a file is missing, an endpoint fails.
    """
    parts = prepare(tasks, lengths, samples, seed, material, counter, out / "prompts", preparing)
    backend.check([part.longest.prompt for part in parts])
    folder = run_folder(out, backend, [part.fingerprint for part in parts])
    facts = {**backend.facts, "benchmark": "ruler", "label": LABEL, "samples": samples, "ruler_seed": seed,
             "lengths": list(lengths), "tasks": [task.name for task in tasks], "tokenizer_hash": counter.fingerprint,
             "material": {name: value for task in tasks for name, value in task.files(material).items()},
             "prompts": {part.name: part.fingerprint for part in parts}}  # fmt: skip
    answers = Answers(folder / "answers.jsonl")
    keys = [key for part in parts for key in part.keys]
    done = sum(key in answers.by_key for key in keys)
    asking(done, len(keys))
    scores: dict[Path, TaskScore] = {}
    items: dict[str, tuple[float, float]] = {}
    # The longest first: what the memory does not hold is seen at the beginning. One part's texts are in memory at a time.
    for part in sorted(parts, key=lambda part: -part.longest.length):
        rows = part.rows()
        for _ in answers.ask([row.prompt for row in rows], backend):
            done += 1
            asking(done, len(keys))
        (scores[part.path],) = task_scores(rows, answers.by_key)
        items |= {row.prompt.key: (row_score(row, answers.by_key[row.prompt.key]), 1.0) for row in rows}
    in_order = [scores[part.path] for part in parts]
    return Result(folder, facts, _metrics(in_order)).kept([asdict(score) for score in in_order], items), in_order


def _metrics(scores: Sequence[TaskScore]) -> dict[str, float]:
    """Flat, as MLflow takes them: ruler.<length>.<task>, ruler.<length>; the paper's average where all of it was asked."""
    by_length = averages(scores)
    metrics = {f"ruler.{s.length}.{s.task}": s.score for s in scores} | {f"ruler.{n}": v for n, v in by_length.items()}
    if {(score.task, score.length) for score in scores} == set(product(TASKS, LENGTHS)):
        metrics[AVERAGE] = mean(by_length.values())
    return metrics


def ruler_table(result: Result, scores: Sequence[TaskScore]) -> Table:
    """Scores by task and length with their 95 % intervals; the published averages below."""
    lengths = sorted({score.length for score in scores})
    table = Table(title=f"RULER-compatible, {result.facts['samples']} samples a task", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("task")
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    by_cell = {(score.task, score.length): score for score in scores}
    for task in dict.fromkeys(score.task for score in scores):
        cells = [by_cell[task, length] for length in lengths]
        table.add_row(task, *(f"{c.score:.1f} [{c.interval[0]:.0f}, {c.interval[1]:.0f}]" for c in cells))
    table.add_section()
    means = averages(scores)
    table.add_row("mean of these tasks", *(f"{means[length]:.2f}" for length in lengths))
    for name, published in PUBLISHED.items():
        values = [published.get(length) for length in lengths]
        if any(value is not None for value in values):
            table.add_row(f"published, {name} (13 tasks, 8B)", *("" if value is None else f"{value:.2f}" for value in values))
    task_count = len({score.task for score in scores})
    table.caption = f"{task_count} of {len(TASKS)} tasks"
    if AVERAGE in result.figures:
        averages_of = ", ".join(f"{name} {value:.2f}" for name, value in PUBLISHED_AVERAGE.items())
        table.caption += f"; average of 8K to 128K {result.figures[AVERAGE]:.2f}; published: {averages_of}"
    return table
