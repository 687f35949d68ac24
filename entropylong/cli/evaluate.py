"""The commands that judge a model, `entropylong evaluate ...`: one for each record of `evaluation/benchmarks`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from entropylong.cli.options import ConfigOption, DtypeOption, InputOption, Overrides, only_overrides
from entropylong.evaluation.benchmarks import BENCHMARKS
from entropylong.evaluation.benchmarks.record import Benchmark, Request

app = typer.Typer(
    help="""Judge a model on long-context benchmarks.

    Examples:

        entropylong evaluate ruler --config demo --length 2048 --samples 5

        entropylong evaluate longppl books.jsonl --evaluator BASE --model CHECKPOINT
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

OutOption = Annotated[Path | None, typer.Option("--out", help="Where prompts, answers and scores are kept. [WORKSPACE/evaluation]")]


def command_of(benchmark: Benchmark) -> Callable[..., None]:
    """Make a benchmark's command: the options that all have, around its own, which are the parameters of its `run`."""

    def command(
        config: str, words: Sequence[str] | None, dtype: str, out: Path | None, input_path: str | None = None, **own: Any
    ) -> None:
        from rich.console import Console

        from entropylong.config import load_config
        from entropylong.evaluation.tracking import track

        overrides = only_overrides(words)
        loaded = load_config(config, overrides, input_path)
        folder = (out or Path(loaded.workspace) / "evaluation") / benchmark.key
        outcome = benchmark.run(Request(loaded, config, overrides, input_path, dtype, folder), **own)
        if isinstance(outcome.shown, str):
            print(outcome.shown)
        else:
            Console(highlight=False).print(outcome.shown)
        print(outcome.place)
        track(loaded, outcome.result, *outcome.pictures)

    parameters = _parameters(benchmark)
    command.__doc__ = benchmark.run.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameters(benchmark: Benchmark) -> list[inspect.Parameter]:
    """Order a command's parameters: the benchmark's arguments are before the overrides, its options after --config."""

    def shared(name: str, annotation: object, default: object = None) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    _, *own = inspect.signature(benchmark.run, eval_str=True).parameters.values()
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    arguments = [parameter for parameter in keyword if parameter.default is inspect.Parameter.empty]
    options = [parameter for parameter in keyword if parameter.default is not inspect.Parameter.empty]
    front = [shared("words", Overrides), shared("config", ConfigOption, "base")]
    front += [shared("input_path", InputOption)] if benchmark.reads_tables else []
    return [*arguments, *front, *options, shared("dtype", DtypeOption, "auto"), shared("out", OutOption)]


def register(benchmark: Benchmark) -> None:
    """Add a benchmark's command."""
    app.command(benchmark.command)(command_of(benchmark))


for _benchmark in BENCHMARKS.values():
    register(_benchmark)
