"""The commands of the small-scale experiment: `entropylong experiment links | training`."""

from __future__ import annotations

import sys

import typer

from entropylong.cli.options import ConfigOption, Overrides, only_overrides
from entropylong.pipeline.open import open_state

app = typer.Typer(
    help="""The small-scale experiment: two claims, decision rules fixed before it is run.

    Examples:

        entropylong experiment links

        entropylong experiment training --config experiment_training_cpu
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command()
def links(words: Overrides = None, config: ConfigOption = "experiment_links") -> None:
    """Claim A, verification selects real links: against planted facts and "See Also", and against the winner's curse.

    Examples:

        entropylong experiment links
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.core.stage_names import MEASURED
    from entropylong.evaluation.tracking import track
    from entropylong.experiments.run_links import run_links, write_roots
    from entropylong.pipeline.runner import Runner

    overrides = only_overrides(words)
    file = write_roots(load_config(config, overrides))
    more = [*overrides, "sources.see_also.kind=jsonl", f"sources.see_also.path={file}", "sources.see_also.role=both"]
    spark = open_state(config, more, None, MEASURED).spark
    loaded = load_config(config, more)
    result, table = run_links(loaded, lambda own: Runner.open(own, spark))
    Console(highlight=False, width=None if sys.stdout.isatty() else 130).print(table)
    print(f"Figures: {result.folder}")
    track(loaded, result)


@app.command()
def training(words: Overrides = None, config: ConfigOption = "experiment_training") -> None:
    """Claim B, training on verified links helps: arms verified, noverify and permuted, judged on links that were held out.

    The same command goes on with an experiment that was broken.

    Examples:

        entropylong experiment training

        entropylong experiment training --config experiment_training_cpu
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.core.stage_names import MEASURED
    from entropylong.evaluation.tracking import track
    from entropylong.experiments.run_training import run_experiment
    from entropylong.pipeline.runner import Runner

    overrides = only_overrides(words)
    spark = open_state(config, overrides, None, MEASURED).spark
    loaded = load_config(config, overrides)
    result, table = run_experiment(loaded, lambda own: Runner.open(own, spark), spark)
    Console(highlight=False, width=None if sys.stdout.isatty() else 130).print(table)
    print(f"Figures: {result.folder}")
    track(loaded, result)
