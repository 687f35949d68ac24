"""What each test needs, told from its fixtures: exactly one of four marks; and the order in which files of tests begin."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Minutes of a test of each kind, roughly, against each other.
WEIGHTS = {"e2e": 12.0, "spark": 8.0, "model": 1.0, "unit": 0.1}
KINDS = tuple(WEIGHTS)


def kind_of(item: pytest.Item) -> str:
    """Tell the kind of a test: the mark that it has, else what its fixtures bring.

    Raises:
        UsageError: it has two marks.
    """
    marks = {mark.name for mark in item.iter_markers()} & set(KINDS)
    if len(marks) > 1:
        raise pytest.UsageError(f"{item.nodeid} is marked {' and '.join(sorted(marks))}; a test is of one kind")
    if marks:
        return marks.pop()
    fixtures = set(getattr(item, "fixturenames", ()))
    brought = {"wheel": "e2e", "spark": "spark", "tiny_models": "model", "real_lm": "model"}
    return next((kind for fixture, kind in brought.items() if fixture in fixtures), "unit")


def mark_kinds(items: list[pytest.Item]) -> None:
    """Give each test the mark of its kind, and put the files with most work first: one begun last leaves a worker alone.

    The second worker begins with files that do not wait for the workspace that the first one is making.
    """
    work: Counter[Path] = Counter()
    waiting: set[Path] = set()
    for item in items:
        kind = kind_of(item)
        if item.get_closest_marker(kind) is None:
            item.add_marker(kind)
        work[item.path] += WEIGHTS[kind]  # type: ignore[assignment]
        if "finished" in getattr(item, "fixturenames", ()):
            waiting.add(item.path)
    first, *others = [path for path, _ in work.most_common()] or [Path()]
    free = [path for path in others if path not in waiting][:3]
    place = {path: number for number, path in enumerate([first, *free, *(path for path in others if path not in free)])}
    items.sort(key=lambda item: place[item.path])


@contextmanager
def only_what_a_unit_needs() -> Iterator[None]:
    """Fail a unit test that starts Spark or makes a model."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (("pyspark", "SparkContext"), ("transformers", "PreTrainedModel")):
            if loaded_module := sys.modules.get(module):
                patch.setattr(getattr(loaded_module, name), "__init__", _refused(name))
        yield


def _refused(name: str) -> Any:
    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail(f"a unit test makes a {name}; mark it spark, model or e2e")

    return refuse
