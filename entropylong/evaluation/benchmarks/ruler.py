"""RULER's record; the benchmark is in `evaluation/ruler`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from entropylong.evaluation.benchmarks.options import AnsweringModel, Endpoint, Lengths, Tokenizer
from entropylong.evaluation.benchmarks.record import Benchmark, Comparison, Outcome, Pairing, Request
from entropylong.evaluation.benchmarks.section import Cell, Group, Lines, Row, Scored, Section, short


def run(
    request: Request,
    model: AnsweringModel = None,
    length: Lengths = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task; give it again for more. [all that have their file]")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Questions a task and length.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Other questions.")] = 42,
    endpoint: Endpoint = None,
    tokenizer: Tokenizer = None,
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="Put the model's chat template around the prompts.")] = False,
) -> Outcome:
    """RULER's 13 tasks at any length, greedy. The same command goes on with a run that was broken.

    Examples:

        entropylong evaluate ruler --config demo --length 2048 --samples 5

        entropylong evaluate ruler --model DIR --length 8192 --length 131072 evaluate.essays=PaulGrahamEssays.json

        entropylong evaluate ruler --endpoint http://HOST:8000/v1 --model NAME --tokenizer DIR --length 32768
    """
    from entropylong.evaluation.generation import Decoding, tokenizer_hash
    from entropylong.evaluation.judged import answering_model
    from entropylong.evaluation.ruler.material import Material
    from entropylong.evaluation.ruler.parts import Counter
    from entropylong.evaluation.ruler.prepare import LENGTHS, runnable
    from entropylong.evaluation.ruler.run import evaluate_ruler, ruler_table
    from entropylong.utils.progress import counted_progress

    config = request.config
    paths: dict[str, Any] = {name: Path(path) for name, path in config.evaluate.model_dump().items() if path is not None}
    material = Material(**paths)
    tasks, without = runnable(task or [], material)
    if without:
        print(f"left out for want of a file in evaluate.*: {', '.join(without)}")
    lengths = sorted(set(length or LENGTHS))
    decoding = Decoding(chat, 0.0, seed)
    backend, counting = answering_model(config, model, endpoint, tokenizer, decoding, request.dtype, max(lengths))

    def count(text: str) -> int:
        return len(counting(text, add_special_tokens=False, verbose=False)["input_ids"])

    counter = Counter(count, tokenizer_hash(counting))
    with counted_progress("ruler", "prompts") as preparing, counted_progress("ruler") as asking:
        result, scores = evaluate_ruler(
            backend, counter, tasks, lengths, samples, seed, material, request.folder, preparing, asking
        )
    return Outcome(result, ruler_table(result, scores), f"Answers, scores: {result.folder}; prompts beside it")


_UNEVEN = "At some length the runs were asked different tasks: their means there are not of the same thing."
# Place of the run, task, length -> its score, as `score.TaskScore`.
_Scores = dict[tuple[int, str, int], Mapping[str, Any]]


def table(results: Sequence[Scored | None]) -> Section | None:
    """RULER by task and length, with the means of each run and the published averages; None if no run has it."""
    from entropylong.evaluation.ruler.tasks import TASKS

    by_cell: _Scores = {
        (place, score["task"], int(score["length"])): score
        for place, result in enumerate(results)
        if result
        for score in result.scores
    }
    if not by_cell:
        return None
    lengths = sorted({length for _, _, length in by_cell})
    places = sorted({place for place, _, _ in by_cell})
    names = [task for task in TASKS if any(task == own for _, own, _ in by_cell)]
    tasks_asked = {
        (place, length): [task for task in names if (place, task, length) in by_cell] for place in places for length in lengths
    }
    means: list[tuple[int, list[float | None]]] = []
    averages: list[Row] = []
    for place in places:
        scores = [[by_cell[place, task, length]["score"] for task in tasks_asked[place, length]] for length in lengths]
        means.append((place, [mean(own) if own else None for own in scores]))
        cells = [Cell(f"{mean(own):.2f}", f"{len(own)} of {len(TASKS)} tasks") if own else None for own in scores]
        averages.append(Row("mean, ", cells, place, "mean"))
    published = _published(lengths)
    for name, values in published:
        cells = [None if value is None else Cell(f"{value:.2f}") for value in values]
        averages.append(Row(f"published, {name}", cells, kind="published"))
    tasks = [
        Group([Row("", [_cell(by_cell.get((place, task, length))) for length in lengths], place) for place in places], task)
        for task in names
    ]
    is_uneven = any(len({tuple(tasks_asked[place, n]) for place in places if tasks_asked[place, n]}) > 1 for n in lengths)
    return Section(
        heading="RULER-compatible",
        columns=[short(length) for length in lengths],
        groups=[Group(averages), *tasks],
        lines=Lines("Mean over tasks by length", lengths, means, published, "published, all tasks, 8B"),
        before=_UNEVEN if is_uneven else "",
    )


def _published(lengths: Sequence[int]) -> list[tuple[str, list[float | None]]]:
    """Published averages at these lengths, of those that have one."""
    from entropylong.evaluation.ruler.score import PUBLISHED

    rows = [(name, [row.get(length) for length in lengths]) for name, row in PUBLISHED.items()]
    return [row for row in rows if any(row[1])]


def _cell(score: Mapping[str, Any] | None) -> Cell | None:
    if score is None:
        return None
    low, high = score["interval"]
    empty = f", {score['empty']} empty" if score["empty"] else ""
    return Cell(f"{score['score']:.1f}", f"[{low:.0f}, {high:.0f}]{empty}")


BENCHMARK = Benchmark(
    key="ruler",
    command="ruler",
    title="RULER",
    run=run,
    comparison=Comparison(
        asked=("prompts",),
        pairing=Pairing.STRATA,
        table=table,
        # Its lengths and tasks may be asked one by one.
        parts=("lengths", "tasks", "material", "prompts"),
    ),
    card_facts=("samples", "dtype", "chat"),
)
