"""The record of attention by depth; the measurement is in `evaluation/attention.py` and `evaluation/depths.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from entropylong.evaluation.benchmarks.options import Lengths
from entropylong.evaluation.benchmarks.record import Benchmark, Outcome, Request


def run(
    request: Request,
    model: Annotated[str | None, typer.Option("--model", help="An id, a folder or wheel:package/path. [model.name]")] = None,
    length: Lengths = None,
    depth: Annotated[
        list[int] | None,
        typer.Option("--depth", min=0, max=100, help="Per cent of the text before the needle; again for more. [0 25 50 75 100]"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Needles a length, each at all depths.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Other needles.")] = 42,
) -> Outcome:
    """Where the last token looks: the share of its attention on an answer, by length and depth. A table and a picture.

    Examples:

        entropylong evaluate attention --config demo --length 512 --length 1024 --length 2048
    """
    from entropylong.evaluation.depths import PICTURE, attention_table, evaluate_attention
    from entropylong.evaluation.judged import reading_model
    from entropylong.evaluation.ruler.prepare import LENGTHS
    from entropylong.utils.progress import counted_progress

    lengths, depths = sorted(set(length or LENGTHS)), sorted(set(depth or (0, 25, 50, 75, 100)))
    judged, path = reading_model(request.config, model, request.dtype, max(lengths))
    with counted_progress("attention", "passes") as progress:
        result, scores = evaluate_attention(judged, path, lengths, depths, samples, seed, request.folder, progress)
    return Outcome(result, attention_table(result, scores), f"Shares, picture: {result.folder}", (result.folder / PICTURE,))


BENCHMARK = Benchmark(key="attention", command="attention", title="attention by depth", run=run, card_facts=("samples", "dtype"))
