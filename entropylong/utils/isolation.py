"""A row that makes code fail costs itself alone: found by halving, refused with its reason, the rest goes on. Pure Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from entropylong.errors import EntropyLongError

Item = TypeVar("Item")
Result = TypeVar("Result")


def reason_of(error: BaseException) -> str:
    """One line, short enough for a table's `detail`."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:512]


def isolated(
    items: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]], refuse: Callable[[Item, str], Sequence[Result]]
) -> list[Result]:
    """The results of `run` over the items; where it raises, of their halves, down to single items, which are refused.

    Errors of our own are not caught: they say what is wrong with the set-up. And where every one of several items fails, the
    items are not to blame: the first error is raised.

    Args:
        items: what to work on.
        run: several items -> their results, in any number.
        refuse: an item and the reason -> its results instead.
    """
    failures: list[Exception] = []
    results = _halved(items, run, refuse, failures)
    if failures and len(failures) == len(items) > 1:
        raise failures[0]
    return results


def _halved(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], list[Result]],
    refuse: Callable[[Item, str], Sequence[Result]],
    failures: list[Exception],
) -> list[Result]:
    try:
        return run(items)
    except EntropyLongError:
        raise
    except Exception as error:  # whatever a model, a tokenizer or a parser raises on a poisonous row
        if len(items) == 1:
            failures.append(error)
            return list(refuse(items[0], reason_of(error)))
    middle = len(items) // 2
    return _halved(items[:middle], run, refuse, failures) + _halved(items[middle:], run, refuse, failures)


def refused(code: str, detail: str, outcome: str = "error") -> dict[str, Any]:
    """The three columns of a refused row."""
    return {"outcome": outcome, "code": code, "detail": detail[:512]}
