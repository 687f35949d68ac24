"""The command that reads dependencies where they were packed: `entropylong evaluate gain`."""

from __future__ import annotations

from typing import Annotated

import typer

from entropylong.cli.evaluate import DtypeOption, OutOption, reading_model, result_folder
from entropylong.cli.options import ConfigOption, InputOption, Overrides, only_overrides
from entropylong.pipeline.open import open_state


def gain(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model that reads, with the same tokenizer. [model.name]")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Dependencies, by hash; each context is a pass.")] = 256,
    dtype: DtypeOption = "auto",
    out: OutOption = None,
) -> None:
    """Gain in place: what the verified dependencies of the packed sequences are worth there, and without their context.

    Examples:

        entropylong evaluate gain --config demo --samples 16

        entropylong evaluate gain --config train_128k --model CHECKPOINT
    """
    from rich.console import Console

    from entropylong.evaluation.in_place import gain_table, gains_in_place, keep_gains
    from entropylong.evaluation.placed import other_chunks, sample_placed
    from entropylong.evaluation.tracking import track
    from entropylong.models.cache import load
    from entropylong.pipeline.preflight import check_tokenizer
    from entropylong.utils.progress import counted_progress

    state = open_state(config, only_overrides(words), input_path)
    loaded = state.config
    reader, path = reading_model(loaded, model, dtype, loaded.pack.length)
    check_tokenizer("--model", reader.spec.name, reading_model(loaded, None, dtype, 0)[1], path)
    sequences, chunk_ids, root_ids = sample_placed(state, samples)
    others = other_chunks(state, reader, chunk_ids, root_ids)
    with counted_progress("gain", "dependencies") as progress:
        found = gains_in_place(
            load(reader), sequences, others, seed=loaded.seed, batch_tokens=loaded.run.batch_tokens, progress=progress
        )
    folder = result_folder(loaded, out, "gain_in_place")
    result, rows = keep_gains(reader, state.fingerprint("sequences") or "-", found, loaded.accept.epsilon, folder)
    Console(highlight=False).print(gain_table(rows, len(found)))
    print(f"Each dependency: {result.folder}")
    track(loaded, result)
