"""The command line. Every command imports what it needs when it runs, so `--help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from entropylong.cli import (
    audit,
    cards,
    compare,
    evaluate,
    experiment,
    report,
    setup,
    sweep,
    train,
)
from entropylong.cli.maintain import check, compact, gc, quarantine, refresh
from entropylong.cli.options import ConfigOption, InputOption, Overrides, Words, only_overrides, split_words
from entropylong.errors import EntropyLongError
from entropylong.pipeline.open import open_runner, open_state
from entropylong.utils.log import NORMAL, QUIET, VERBOSE, show

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner


class _Journey(typer.core.TyperGroup):
    """Panels of --help in the order of PANELS; Typer's own has every group after every command."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        order = list(PANELS)
        return sorted(super().list_commands(ctx), key=lambda name: order.index(self.commands[name].rich_help_panel))  # type: ignore[attr-defined]


app = typer.Typer(
    name="entropylong",
    cls=_Journey,
    help="""Turn short documents into long training sequences whose long-range dependencies were measured.

    Examples:

        entropylong init docs.jsonl

        entropylong run --config docs.yaml

        entropylong report --config docs.yaml
    """,
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a stack trace where an error is told in one line otherwise.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print results, warnings and errors only; no progress.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print details too, each line with its time and module.")] = False,
) -> None:
    """Options of every command."""
    if version:
        import entropylong

        print(entropylong.__version__)
        raise typer.Exit()


def run(
    words: Words = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what each stage would read, write and need; run nothing.")
    ] = False,
) -> None:
    """Run the stages that are behind (all, or the named ones).

    Examples:

        entropylong run --config conf/demo.yaml

        entropylong run --config conf/demo.yaml --input docs.jsonl workspace=runs/mine

        entropylong run anchors search --config conf/demo.yaml anchors.alpha=1.5
    """
    from rich.console import Console

    names, overrides = split_words(words)
    if describe:
        from entropylong.config import load_config
        from entropylong.pipeline.describe import describe_steps

        Console(soft_wrap=True).print(describe_steps(load_config(config, overrides, input_path), names))
        return
    runner = open_runner(config, overrides, input_path, names)
    result = runner.run(names)
    from entropylong.pipeline.metrics.compute import latest_metrics, metrics_table

    if runner.state.fingerprint("sequences") is not None and (figures := result.figures or latest_metrics(runner.state)):
        Console().print(metrics_table(figures))
    if not result.steps:
        print("Nothing was behind; no table changed.")
    print(where_next(runner, ["--config", config, *(["--input", input_path] if input_path else []), *overrides]))


def where_next(runner: Runner, arguments: Sequence[str]) -> str:
    """Where the results are and how to look at them, with the arguments of this run."""
    import shlex

    from entropylong.pipeline.metrics.compute import best_root

    loaded = runner.config
    lines = [f"Tables: {loaded.tables}"]
    if loaded.roots.limit is not None:
        lines.append(f"Roots: at most {loaded.roots.limit:,}, as roots.limit says; with more, only what is new is measured")
    if root := best_root(runner.state):
        lines.append(f"Look at one root:  entropylong inspect {shlex.join([root, *arguments])}")
    if loaded.tracking.uri.startswith("sqlite:"):
        lines.append(f"MLflow UI:         mlflow ui --backend-store-uri {loaded.tracking.uri}")
    return "\n".join(lines)


def plan(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a run would cost before anything is spent: rows, tokens, FLOPs, device hours, memory, shuffle and storage.

    Examples:

        entropylong plan --config conf/paper.yaml

        entropylong plan --config base --input docs.jsonl plan.device=A100

        entropylong plan --config paper roots.limit=null plan.root_tokens=null plan.anchors_per_root=null
    """
    import json

    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.planning.estimate import make_plan
    from entropylong.planning.tables import plan_report
    from entropylong.spark.session import session

    loaded = load_config(config, only_overrides(words), input_path)

    estimate = make_plan(loaded, lambda: session(loaded))
    if as_json:
        print(json.dumps(estimate.as_json()))
    else:
        Console(highlight=False).print(plan_report(estimate))


def status(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Per stage: rows in, done, left, skipped, quarantined, rate and ETA.

    Examples:

        entropylong status --config conf/demo.yaml --json
    """
    import json

    from rich.console import Console

    from entropylong.reporting.status import status_rows, status_view

    state = open_state(config, only_overrides(words), input_path)
    rows = status_rows(state)
    if as_json:
        print(json.dumps(rows))
    else:
        Console().print(status_view(rows, state.config.workspace))


def inspect(
    doc_id: Annotated[str, typer.Argument(help="Id of a root document.")],
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    contexts: Annotated[int, typer.Option("--contexts", min=0, help="Accepted contexts to print in full.")] = 3,
) -> None:
    """One root: its text with the entropy as colour, anchors, candidates, gains, what was accepted and why.

    Examples:

        entropylong inspect scipy.signal._filter_design.butter --config conf/demo.yaml
    """
    from rich.console import Console

    from entropylong.reporting.inspect import inspect_root

    state = open_state(config, only_overrides(words), input_path)
    Console(highlight=False).print(inspect_root(state, doc_id, contexts))


# In the order of a user's journey, as --help shows them.
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Set up": (setup.doctor, setup.init, plan),
    "Build": (run, refresh, sweep.sweep),
    "Look": (status, inspect, report.report, quarantine, compare.compare, audit.audit),
    "Train and publish": (train.train, train.export),
    "Judge a model": (),
    "Upkeep": (check, gc, compact),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(cards.app, name="card", rich_help_panel="Train and publish")
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Judge a model")
app.add_typer(experiment.app, name="experiment", rich_help_panel="Judge a model")


# Options of every command that may stand anywhere on the line.
_ANYWHERE = ("--debug", "--quiet", "--verbose")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script: one line an error, exit code 2 for usage, 1 for failure."""
    code = call(list(sys.argv[1:] if arguments is None else arguments))
    _stop_session()
    if code:
        sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run a command line and give its exit code; errors are printed, not raised, unless --debug is among them."""
    debug = "--debug" in arguments
    if debug:
        os.environ["ENTROPYLONG_DEBUG"] = "1"
    show(QUIET if "--quiet" in arguments else VERBOSE if "--verbose" in arguments else NORMAL)
    try:
        result = app([a for a in arguments if a not in _ANYWHERE], standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except EntropyLongError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", 130)
    except Exception as error:
        return _unexpected(error, debug)


# A library of an extra -> the extra; each runtime brings some itself.
_EXTRAS = {"pyspark": "spark", "delta": "spark", "faiss": "cpu", "petastorm": "train"}


def _unexpected(error: Exception, debug: bool) -> int:
    # Typer's own usage errors (an unknown option, a missing value) know how to say themselves.
    formatter = getattr(error, "format_message", None)
    if callable(formatter):
        # Without a command the help was printed, and is the answer.
        return _fail(f"{formatter().rstrip('.')}; see entropylong --help", 2) if formatter() else 2
    if debug:
        raise error
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return _fail(
            f"{error.name} is not installed; pip install 'entropylong[{_EXTRAS[error.name]}]' (entropylong doctor looks at all)", 1
        )
    return _fail(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; again with --debug for the trace", 1)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def _stop_session() -> None:
    if "pyspark" not in sys.modules:
        return
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None and "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        active.stop()
