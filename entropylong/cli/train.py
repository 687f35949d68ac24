"""The commands around the training run: train, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from entropylong.cli.options import ConfigOption, Overrides, only_overrides
from entropylong.pipeline.open import open_state


def train(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: Annotated[
        str | None,
        typer.Option("--input", help="Conversations, beside those of train.data (train.mode sft): JSON lines with messages."),
    ] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print memory of a GPU, steps, tokens and hours at a stated rate; run nothing.")
    ] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Seal the data and print the torchrun command; start nothing.")
    ] = False,
) -> None:
    """Train on the packed sequences, or go on with a run that was broken: the same command does both.

    Examples:

        entropylong train --config train_128k --describe

        entropylong train --config demo_train

        entropylong train --config sft_128k --input ultrachat.jsonl train.model=DIR
    """
    from rich.console import Console

    from entropylong.config import load_config

    overrides = only_overrides(words)
    if input_path is not None:
        overrides = ["train.data.chat.kind=chat", f"train.data.chat.path={json.dumps(input_path)}", *overrides]
    loaded = load_config(config, overrides)
    if describe:
        from entropylong.training.describe import describe as metrics_of
        from entropylong.training.describe import description_table

        Console(highlight=False).print(description_table(metrics_of(loaded), loaded))
        return
    from entropylong.spark.session import session
    from entropylong.training.launch import torchrun_line
    from entropylong.training.run import prepare_run, run_training, trained_model

    trained_model(loaded)
    if prepare:
        ready = prepare_run(loaded, session(loaded))
        print(torchrun_line(ready.file, ready.ranks))
        return
    done = run_training(loaded, session(loaded))
    if done.result.is_dir():
        print(f"Model: {done.result}")
    else:
        print("Stopped before its end; the same command goes on from there.")
    if loaded.tracking.uri.startswith("sqlite:"):
        print(f"MLflow UI:  mlflow ui --backend-store-uri {loaded.tracking.uri}")


Format = Literal["parquet", "mds", "jsonl"]


def export(
    folder: Annotated[Path, typer.Argument(help="Where to; it must not exist.")],
    words: Overrides = None,
    config: ConfigOption = "base",
    to: Annotated[Format, typer.Option("--to", help="parquet, mds (mosaicml-streaming) or jsonl.")] = "parquet",
) -> None:
    """The packed sequences for other trainers.

    Examples:

        entropylong export runs/export --config demo

        entropylong export runs/mds --to mds --config train_128k workspace=DIR
    """
    from entropylong.training.data.export import export_sequences

    rows = export_sequences(open_state(config, only_overrides(words)), folder, to)
    print(f"{rows:,} sequences in {folder}")
