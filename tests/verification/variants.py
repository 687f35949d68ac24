"""Variants of a family that exist for a test alone: one file each, as a new one would be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from entropylong.utils.registry import load_records


@contextmanager
def one_more(family: ModuleType, registry: dict[str, Any], name: str, kind: type, source: str, folder: Path) -> Iterator[None]:
    """Register the record of a file with this source, as if the file were in the family's package and its name in the Literal."""
    (folder / f"{name}.py").write_text(source)
    dotted = f"{family.__name__}.{name}"
    family.__path__.append(str(folder))
    invalidate_caches()
    registry |= load_records(family.__name__, [name], kind)
    try:
        yield
    finally:
        del registry[name], sys.modules[dotted]
        family.__path__.remove(str(folder))


def records_in(family: ModuleType) -> dict[str, Any]:
    """The records of all files of a family's package, by the name of the file."""
    modules = {info.name: import_module(f"{family.__name__}.{info.name}") for info in iter_modules(family.__path__)}
    return {name: module.RECORD for name, module in modules.items() if hasattr(module, "RECORD")}


def comment_above(key: str) -> str:
    """The comment of a key in conf/base.yaml, by the last part of its name; of the first key that is named so."""
    lines = (Path(__file__).parents[2] / "conf" / "base.yaml").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
    start = place
    while lines[start - 1].strip().startswith("#"):
        start -= 1
    return " ".join(line.strip("# ") for line in lines[start:place])
