"""Families of variants: one file per variant, one record per file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TypeVar

Record = TypeVar("Record")


def load_records(package: str, names: Iterable[str], kind: type[Record]) -> dict[str, Record]:
    """Load the record of each variant of a family, in the order of the alphabet.

    Args:
        package: the dotted name of the family's package. Its module NAME holds the record of the variant NAME as `RECORD`.
        names: the names of the variants, from the Literal that the config is checked by.
        kind: the type of a record.

    Raises:
        TypeError: a module's `RECORD` is of another type.
    """
    records = {}
    for name in sorted(names):
        record = import_module(f"{package}.{name}").RECORD
        if not isinstance(record, kind):
            raise TypeError(f"{package}.{name}.RECORD is a {type(record).__name__}, not a {kind.__name__}")
        records[name] = record
    return records
