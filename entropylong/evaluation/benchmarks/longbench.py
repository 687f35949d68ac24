"""LongBench-v2's record; the benchmark is in `evaluation/longbench.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from entropylong.evaluation.benchmarks.options import AnsweringModel, Endpoint, Tokenizer
from entropylong.evaluation.benchmarks.record import Benchmark, Comparison, Outcome, Pairing, Request
from entropylong.evaluation.benchmarks.section import Cell, Group, Row, Scored, Section


def run(
    request: Request,
    data: Annotated[Path, typer.Argument(help="The benchmark's data.json (zai-org/LongBench-v2 on the Hugging Face hub).")],
    model: AnsweringModel = None,
    max_len: Annotated[
        int, typer.Option("--max-len", min=2, help="Tokens of a prompt; the middle of a longer one is cut out.")
    ] = 120_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the answers, which are drawn at temperature 0.1.")] = 42,
    endpoint: Endpoint = None,
    tokenizer: Tokenizer = None,
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="The benchmark asks through the model's chat template.")] = True,
) -> Outcome:
    """LongBench-v2, zero-shot: 503 questions of four choices. The same command goes on with a run that was broken.

    Examples:

        entropylong evaluate longbench data.json --model DIR

        entropylong evaluate longbench data.json --endpoint http://HOST:8000/v1 --model NAME --tokenizer DIR
    """
    from entropylong.evaluation.generation import Decoding
    from entropylong.evaluation.judged import answering_model
    from entropylong.evaluation.longbench import NEW_TOKENS, TEMPERATURE, evaluate_longbench, read_items, report_table
    from entropylong.utils.progress import counted_progress

    items = read_items(data)
    decoding, longest = Decoding(chat, TEMPERATURE, seed), max_len + NEW_TOKENS
    backend, counter = answering_model(request.config, model, endpoint, tokenizer, decoding, request.dtype, longest, "--max-len")
    with counted_progress("longbench") as progress:
        result, rows = evaluate_longbench(items, backend, counter, max_len, request.folder, progress)
    return Outcome(result, report_table(rows), f"Answers, scores: {result.folder}")


def table(results: Sequence[Scored | None]) -> Section | None:
    """A row a split, as `longbench.report` gives it, with the published score; None if no run has it."""
    from entropylong.evaluation.longbench import PUBLISHED

    by_run = [{row["split"]: row for row in result.scores} if result else {} for result in results]
    splits = [split for split in PUBLISHED if any(split in rows for rows in by_run)]
    if not splits:
        return None
    rows = [Row(split, [*(_cell(own.get(split)) for own in by_run), Cell(f"{PUBLISHED[split]:.1f}", is_faint=True)],
                kind="" if place else "whole")
            for place, split in enumerate(splits)]  # fmt: skip
    return Section(
        heading="LongBench-v2",
        columns=[*range(len(results)), "published, EntropyLong 8B after SFT"],
        groups=[Group(rows)],
        after="Intervals of one score are wide at these sizes; the differences above are paired, and sharper.",
    )


def _cell(row: Mapping[str, Any] | None) -> Cell | None:
    if row is None:
        return None
    return Cell(f"{row['score']:.1f}", f"[{row['low']:.1f}, {row['high']:.1f}], {row['right']} of {row['total']}")


BENCHMARK = Benchmark(
    key="longbench_v2",
    command="longbench",
    title="LongBench-v2",
    run=run,
    comparison=Comparison(asked=("prompts",), pairing=Pairing.QUESTIONS, table=table),
    card_facts=("questions", "max_len", "dtype", "chat"),
)
