"""The record of gain in place; the measurement is in `evaluation/in_place.py` and `evaluation/placed.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from entropylong.evaluation.benchmarks.record import Benchmark, Outcome, Request


def run(
    request: Request,
    model: Annotated[
        str | None, typer.Option("--model", help="The model that reads, with the same tokenizer. [model.name]")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Dependencies, by hash; each context is a pass.")] = 256,
) -> Outcome:
    """Gain in place: what the verified dependencies of the packed sequences are worth there, and without their context.

    Examples:

        entropylong evaluate gain --config demo --samples 16

        entropylong evaluate gain --config train_128k --model CHECKPOINT
    """
    from entropylong.evaluation.in_place import gain_table, gains_in_place, keep_gains
    from entropylong.evaluation.judged import reading_model
    from entropylong.evaluation.placed import other_chunks, sample_placed
    from entropylong.models.cache import load
    from entropylong.pipeline.preflight import check_tokenizer
    from entropylong.utils.progress import counted_progress

    state, config = request.open_state(), request.config
    reader, path = reading_model(config, model, request.dtype, config.pack.length)
    check_tokenizer("--model", reader.spec.name, reading_model(config, None, request.dtype, 0)[1], path)
    sequences, chunk_ids, root_ids = sample_placed(state, samples)
    others = other_chunks(state, reader, chunk_ids, root_ids)
    with counted_progress("gain", "dependencies") as progress:
        gains = gains_in_place(
            load(reader), sequences, others, seed=config.seed, batch_tokens=config.run.batch_tokens, progress=progress
        )
    fingerprint = state.fingerprint("sequences") or "-"
    result, rows = keep_gains(reader, fingerprint, gains, config.accept.epsilon, request.folder)
    return Outcome(result, gain_table(rows, len(gains)), f"Each dependency: {result.folder}")


BENCHMARK = Benchmark(key="gain_in_place", command="gain", title="gain in place", run=run, reads_tables=True)
