"""What all commands share: their options, and the way from arguments to a runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from entropylong.core.stage_names import STAGE_NAMES
from entropylong.errors import UsageError

if TYPE_CHECKING:
    pass


def complete_config(begun: str) -> list[str]:
    """For the shell: shipped configs, and YAML files of this folder."""
    from pathlib import Path

    from entropylong.config.loader import conf_dir

    names = [file.stem for file in sorted(conf_dir().glob("*.yaml"))] + [str(file) for file in sorted(Path().glob("*.yaml"))]
    return [name for name in names if name.startswith(begun)]


def complete_stage(begun: str) -> list[str]:
    """For the shell: names of stages."""
    return [name for name in STAGE_NAMES if name.startswith(begun)]


ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        help="YAML config file, or a shipped one: base, small, demo, paper, cluster, train_128k, ...",
        autocompletion=complete_config,
    ),
]
InputOption = Annotated[str | None, typer.Option("--input", help="A file, folder or table that replaces the config's sources.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or bfloat16. [bfloat16 on a GPU]")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides key.sub=value.", show_default=False)]
Words = Annotated[
    list[str] | None,
    typer.Argument(help="Stage names and overrides key.sub=value.", show_default=False, autocompletion=complete_stage),
]


def split_words(words: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(stage names or ids, overrides): an override has a = in it."""
    arguments = list(words or [])
    return [w for w in arguments if "=" not in w], [w for w in arguments if "=" in w]


def only_overrides(words: Sequence[str] | None) -> list[str]:
    """Overrides; anything else among the words is a mistake."""
    names, overrides = split_words(words)
    if names:
        raise UsageError(f"{names[0]!r} is not an override key.sub=value")
    return overrides
