"""The command that puts results side by side: `entropylong compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entropylong.cli.options import ConfigOption

if TYPE_CHECKING:
    from rich.table import Table

    from entropylong.reporting.comparison.collect import Run
    from entropylong.reporting.comparison.sections import Compared


def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Runs, [NAME=]FOLDER of figures, of an evaluation, or above them; the first is the reference. Overrides."
        ),
    ],
    config: ConfigOption = "base",
    out: Annotated[Path | None, typer.Option("--out", help="The page. [WORKSPACE/comparisons/ID/compare.html]")] = None,
) -> None:
    """Recipes or checkpoints side by side: one HTML page, with paired differences of what was asked of both.

    Examples:

        entropylong compare base=runs/base/evaluation trained=runs/trained/evaluation

        entropylong compare runs/verified runs/noverify --config demo --out compare.html

        entropylong compare a=runs/a/figures/verified-1f3c a=judged/a b=runs/a/figures/noverify-90ab b=judged/b
    """
    from rich.console import Console

    from entropylong.config import Config, load_config
    from entropylong.config.schema import keys_of
    from entropylong.errors import ComparisonError
    from entropylong.reporting.comparison.collect import collect
    from entropylong.reporting.comparison.page import page
    from entropylong.reporting.comparison.sections import compared
    from entropylong.reporting.comparison.track import identity, track
    from entropylong.utils.files import write_whole

    keys = set(keys_of(Config))
    overrides = [word for word in words if "=" in word and word.partition("=")[0] in keys]
    loaded = load_config(config, overrides)
    runs = collect([word for word in words if word not in overrides])
    differences = compared(runs)
    file = out or Path(loaded.workspace) / "comparisons" / identity(runs) / "compare.html"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, page(runs, differences))
    except OSError as error:
        raise ComparisonError(f"{file}: cannot be written: {error.strerror}; give another place with --out") from None
    if differences:
        Console(highlight=False).print(_table(runs, differences))
    if left_out := sorted({benchmark for run in runs for benchmark in run.left_out}):
        print(f"not compared: {', '.join(left_out)}")
    print(f"Page: {file}")
    track(loaded, runs, differences, file)


def _table(runs: list[Run], differences: list[Compared]) -> Table:
    """The overall difference of each pair, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from entropylong.evaluation.benchmarks import comparisons

    table = Table(title=f"Differences to {escape(runs[0].name)}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", min_width=14)
    for name in ("difference", "95 %", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    group = None
    for pair in differences:
        if pair.other != group:
            table.add_row(escape(runs[pair.other].name))
            group = pair.other
        benchmark, comparison = comparisons()[pair.benchmark]
        title = f"  {benchmark.title}"
        if not pair.rows:
            table.add_row(title, "", "", "0", "not paired: other questions")
            continue
        row, n = pair.rows[0], comparison.decimals
        interval = "too few differ" if row.interval is None else f"{row.interval[0]:+.{n}f} to {row.interval[1]:+.{n}f}"
        table.add_row(title, f"{row.difference:+.{n}f}", interval, f"{row.pairs:,}", row.verdict)
    return table
