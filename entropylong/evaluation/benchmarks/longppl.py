"""LongPPL's record; the benchmark is in `evaluation/longppl.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from entropylong.evaluation.benchmarks.record import Benchmark, Comparison, Outcome, Pairing, Request
from entropylong.evaluation.benchmarks.section import Group, Scored, Section, metric_rows

_FIGURES = (
    ("LongPPL (lower is better)", "longppl.long_ppl", "{:.3f}"),
    ("perplexity", "longppl.ppl", "{:.3f}"),
    ("key tokens", "longppl.key_count", "{:,.0f}"),
    ("all tokens", "longppl.token_count", "{:,.0f}"),
)


def run(
    request: Request,
    data: Annotated[Path, typer.Argument(help="Long documents: JSON lines with a text.")],
    model: Annotated[str | None, typer.Option("--model", help="The model that is judged. [model.name]")] = None,
    evaluator: Annotated[
        str | None,
        typer.Option("--evaluator", help="The one model that says which tokens are key, for every checkpoint. [model.name]"),
    ] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="Where its key tokens are kept, to be used again.")] = None,
    length: Annotated[int, typer.Option("--length", min=5121, help="Tokens of a document; longer ones are cut.")] = 32_768,
) -> Outcome:
    """LongPPL: perplexity on the tokens that a far context explains, beside the usual one.

    Examples:

        entropylong evaluate longppl books.jsonl --evaluator BASE --keys keys.json --model CHECKPOINT
    """
    from entropylong.evaluation.judged import reading_model
    from entropylong.evaluation.longppl import evaluate_longppl, read_documents

    config = request.config
    (judge, _), (judged, _) = (reading_model(config, name, request.dtype, length + 1) for name in (evaluator, model))
    texts = read_documents(data)
    result, score = evaluate_longppl(judged, judge, texts, length, keys, request.folder, config.run.batch_tokens)
    line = f"LongPPL {score.long_ppl:.3f} on {score.key_count:,} key tokens; perplexity {score.ppl:.3f} on {score.token_count:,}"
    return Outcome(result, line, f"Scores: {result.folder}")


def table(results: Sequence[Scored | None]) -> Section | None:
    """A row a figure; None if no run has one."""
    rows = metric_rows(results, _FIGURES)
    return Section("LongPPL", range(len(results)), [Group(rows)]) if rows else None


BENCHMARK = Benchmark(
    key="longppl",
    command="longppl",
    title="LongPPL",
    run=run,
    comparison=Comparison(asked=("documents", "keys"), pairing=Pairing.PERPLEXITY, table=table, lower_is_better=True, decimals=3),
)
