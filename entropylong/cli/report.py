"""`entropylong report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entropylong.cli.options import ConfigOption, InputOption, Overrides, only_overrides
from entropylong.pipeline.open import open_state


def report(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write it; else in the workspace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers behind the pictures as JSON; write nothing.")] = False,
) -> None:
    """One HTML file about what was found: funnel, entropy, gains against chance, roots to read, time, what was refused.

    It asks no network for anything. The MLflow run that packed the sequences gets it too.

    Examples:

        entropylong report --config conf/demo.yaml

        entropylong report --config conf/demo.yaml --out report.html anchors.alpha=1.5
    """
    import json
    from dataclasses import asdict

    from entropylong.reporting.report.gather import gather
    from entropylong.reporting.report.write import log_report, write_report

    state = open_state(config, only_overrides(words), input_path)
    if as_json:
        print(json.dumps(asdict(gather(state))))
        return
    file = write_report(state, out)
    print(f"Report: {file}")
    run_id = log_report(state, file)
    print(f"MLflow run {run_id} has it as {file.name}." if run_id else "This MLflow store does not hold the run that packed.")
