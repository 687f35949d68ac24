"""The command that compares settings: `entropylong sweep`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from entropylong.cli.options import ConfigOption, InputOption
from entropylong.pipeline.open import open_state


def sweep(
    words: Annotated[
        list[str], typer.Argument(help="Keys to sweep, key=value,value,...; a key with one value is an override of all variants.")
    ],
    config: ConfigOption = "base",
    input_path: InputOption = None,
    grid: Annotated[bool, typer.Option("--grid", help="Every combination; else one key at a time.")] = False,
) -> None:
    """Run the corpus under several settings in one workspace; what was measured is not measured again.

    Examples:

        entropylong sweep --config demo anchors.alpha=1.5,2.0,2.5 accept.epsilon=0.2,0.4,0.6,0.8 query.window=8,16,32

        entropylong sweep --config demo --grid accept.epsilon=0.3,0.5 pack.order=shuffle,anchor_order workspace=runs/mine
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.experiments.sweep import run_sweep, sweep_table, variants
    from entropylong.pipeline.runner import Runner

    keys = {word.partition("=")[0] for word in words if "," in word.partition("=")[2]}
    swept = [word for word in words if word.partition("=")[0] in keys]  # one more value of such a key is one to sweep
    overrides = [word for word in words if word not in swept]
    base = load_config(config, overrides, input_path)
    chosen = variants(base, swept, grid)
    for variant in chosen:
        load_config(config, [*overrides, *variant.overrides], input_path)  # a value that cannot be is told before anything runs
    spark = open_state(config, overrides, input_path, []).spark
    outcomes = run_sweep(
        lambda more: load_config(config, [*overrides, *more], input_path),
        chosen,
        lambda loaded: Runner.open(loaded, spark),
    )
    # Off a terminal a table of ten columns is not squeezed into eighty characters.
    Console(highlight=False, width=None if sys.stdout.isatty() else 130).print(sweep_table(outcomes))
