"""What a benchmark shows on the page of a comparison, as plain rows; the page turns them into HTML. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Scored(Protocol):
    """A result, as far as its table needs it."""

    @property
    def figures(self) -> Mapping[str, float]:
        """Scores by name."""

    @property
    def scores(self) -> Sequence[Mapping[str, Any]]:
        """The scores in detail, as the benchmark keeps them."""


@dataclass(frozen=True)
class Cell:
    """A number of the table.

    Attributes:
        text: the number.
        small: what follows it in small print.
        is_faint: whether it is not a run's own.
    """

    text: str
    small: str = ""
    is_faint: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: its name.
        cells: a cell a column; None where there is nothing.
        run: the place of the run whose row it is, if it is one run's: the run's name follows the label.
        kind: "mean", "published", "whole", or "" for any other.
    """

    label: str
    cells: Sequence[Cell | None]
    run: int | None = None
    kind: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that belong together, with a title above them if they have one."""

    rows: Sequence[Row]
    title: str = ""


@dataclass(frozen=True)
class Lines:
    """A picture of per cents over lengths.

    Attributes:
        caption: what it shows.
        lengths: tokens.
        runs: the place of a run, and a value a length.
        published: a name, and a value a length.
        published_caption: what the published ones are.
    """

    caption: str
    lengths: Sequence[int]
    runs: Sequence[tuple[int, Sequence[float | None]]]
    published: Sequence[tuple[str, Sequence[float | None]]]
    published_caption: str


@dataclass(frozen=True)
class Section:
    """A benchmark on the page.

    Attributes:
        heading: its title.
        columns: what stands above each column: a text, or a run by its place.
        groups: the rows.
        lines: a picture, if it has one.
        before, after: what is said before the table and after it.
    """

    heading: str
    columns: Sequence[str | int]
    groups: Sequence[Group]
    lines: Lines | None = None
    before: str = ""
    after: str = ""


def metric_rows(results: Sequence[Scored | None], figures: Sequence[tuple[str, str, str]]) -> list[Row]:
    """Give a row for each figure that some result has.

    Args:
        results: a result a run.
        figures: label, the figure's name, its format.
    """
    values = [result.figures if result else {} for result in results]
    lines = [line for line in figures if any(line[1] in own for own in values)]
    return [Row(label, [Cell(form.format(own[name])) if name in own else None for own in values]) for label, name, form in lines]


def short(length: int) -> str:
    """Write a length in tokens: 131072 -> 128K."""
    return f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}"
