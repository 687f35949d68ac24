"""The record of a benchmark: all that differs between benchmarks, in one place.

The command line reads every record for `entropylong --help`, so a record's module imports what computes when it runs, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from entropylong.config import Config
    from entropylong.evaluation.benchmarks.section import Scored, Section
    from entropylong.evaluation.results import Result
    from entropylong.pipeline.state import PipelineState


class Pairing(StrEnum):
    """How `entropylong compare` computes the difference of two models from the questions that both were asked.

    Attributes:
        QUESTIONS: The mean over the questions, in points of 100.
        STRATA: The keys are task/length/index; the mean over a task at a length, then over tasks, then over lengths.
        PERPLEXITY: exp of the weighted mean NLL; an item is a document, its weight the number of its tokens.
    """

    QUESTIONS = "questions"
    STRATA = "strata"
    PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class Request:
    """What every benchmark's command gets beside its own options.

    Attributes:
        config: the loaded config.
        config_file, overrides, input_path: the words that it was loaded from, to open a workspace by.
        dtype: float32, bfloat16 or auto.
        folder: the folder under which the result has a folder of its own.
    """

    config: Config
    config_file: str
    overrides: Sequence[str]
    input_path: str | None
    dtype: str
    folder: Path

    def open_state(self) -> PipelineState:
        """Open the workspace's tables, with a Spark session."""
        from entropylong.pipeline.open import open_state

        return open_state(self.config_file, self.overrides, self.input_path)


@dataclass(frozen=True)
class Outcome:
    """What a benchmark's command ends with.

    Attributes:
        result: the scores, kept; they are logged to MLflow.
        shown: the table, or the line, that the terminal shows.
        place: the last line: what lies where.
        pictures: files that are logged too.
    """

    result: Result
    shown: Table | str
    place: str
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """How results of a benchmark are put side by side.

    Attributes:
        asked: the facts that say which questions were asked. A fact that is a dictionary says it by what a question's key begins
            with.
        pairing: how two models are paired.
        table: the page's section, from the result of each run, None where a run has none; published rows are in it.
        lower_is_better: the direction.
        decimals: digits of a difference.
        parts: the facts in which two results of one model may differ and still be one result.
    """

    asked: tuple[str, ...]
    pairing: Pairing
    table: Callable[[Sequence[Scored | None]], Section | None]
    lower_is_better: bool = False
    decimals: int = 1
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        key: its name in results: the fact `benchmark`, and the folder.
        command: its name on the command line.
        title: its name for people.
        run: the command. Its docstring is the help; its parameters after the request are the command's own options.
        comparison: how `entropylong compare` shows it; None: it does not.
        card_facts: the facts that a model card names beside the scores.
        reads_tables: whether the command reads a workspace's tables, and so takes --input.
    """

    key: str
    command: str
    title: str
    run: Callable[..., Outcome]
    comparison: Comparison | None = None
    card_facts: tuple[str, ...] = ("dtype",)
    reads_tables: bool = False
