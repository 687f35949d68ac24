"""`entropylong card dataset | model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entropylong.cli.options import ConfigOption, InputOption, Overrides, only_overrides
from entropylong.pipeline.open import open_state

app = typer.Typer(
    help="""A card for what you publish, as the Hugging Face hub reads it.

    Examples:

        entropylong card dataset --config demo --license cc-by-4.0 --out runs/export/README.md
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

LicenseOption = Annotated[
    str | None,
    typer.Option("--license", help="The hub's identifier of the licence you publish under: apache-2.0, cc-by-4.0, other ..."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Where to write it, like README.md; else it is printed.")]


@app.command()
def dataset(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    license_id: LicenseOption = None,
    out: OutOption = None,
) -> None:
    """The packed sequences: sizes, rules, what passes by chance, columns, where they come from, limits.

    Examples:

        entropylong card dataset --config demo --license cc-by-4.0 --out runs/export/README.md
    """
    from entropylong.reporting.cards.dataset import dataset_card, gather_facts
    from entropylong.reporting.cards.front import check_license, write_card

    check_license(license_id)
    state = open_state(config, only_overrides(words), input_path)
    write_card(dataset_card(gather_facts(state), license_id), out)


@app.command()
def model(
    words: Overrides = None,
    config: ConfigOption = "base",
    run: Annotated[str | None, typer.Option("--run", help="The run's folder in WORKSPACE/training, where several ended.")] = None,
    license_id: LicenseOption = None,
    out: OutOption = None,
) -> None:
    """A model that `train` made: base, data, schedule, loss, evaluations in the workspace, how to load it.

    Examples:

        entropylong card model --config demo_train --out README.md
    """
    from entropylong.config import load_config
    from entropylong.reporting.cards.front import check_license, write_card
    from entropylong.reporting.cards.model import gather_facts, model_card

    check_license(license_id)
    write_card(model_card(gather_facts(load_config(config, only_overrides(words)), run), license_id), out)
