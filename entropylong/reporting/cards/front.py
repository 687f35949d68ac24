"""What both cards share: front matter as the Hugging Face hub reads it, and names without a private path. Pure Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from entropylong.errors import UsageError
from entropylong.models.prepare import HUB_ID, WHEEL
from entropylong.utils.files import write_whole

# The hub's identifiers: apache-2.0, cc-by-4.0, llama3.1, other.
_LICENSE = re.compile(r"^[a-z0-9][a-z0-9.+-]*$")
# The hub's classes of size, by rows.
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def check_license(license_id: str | None) -> str | None:
    """A licence's identifier as it is, or None.

    Raises:
        UsageError: the hub knows none of that form.
    """
    if license_id is not None and not _LICENSE.match(license_id):
        raise UsageError(
            f"--license {license_id!r}: give an identifier of the Hugging Face hub, like apache-2.0, cc-by-4.0 or other"
        )
    return license_id


def front_matter(values: Mapping[str, Any]) -> str:
    """The YAML block that a card begins with; what is None or empty is left out."""
    fields = {key: value for key, value in values.items() if value not in (None, [], "")}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def size_category(rows: int) -> str:
    """The hub's class of a data set of so many rows."""
    for number, size in enumerate(_SIZES):
        if rows < 1000 * 10**number:
            return f"n<{size}" if number == 0 else f"{_SIZES[number - 1]}<n<{size}"
    return f"n>{_SIZES[-1]}"


def public_name(model: str) -> str:
    """What a model may be called in public: a hub's id or a wheel's file as it is, of a folder the last part of its path."""
    path = Path(model).expanduser()
    if WHEEL.match(model) or (HUB_ID.match(model) and not path.exists()):
        return model
    return path.name


def hub_id(model: str) -> str | None:
    """The id under which the hub has a model; None where it came from elsewhere."""
    return model if HUB_ID.match(model) and not Path(model).expanduser().exists() else None


def write_card(text: str, out: Path | None) -> None:
    """Into the file, or to stdout.

    Raises:
        UsageError: it cannot be written there.
    """
    if out is None:
        print(text, end="")
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text)
    except OSError as error:
        raise UsageError(f"card: cannot write {out}: {error.strerror}") from None
    print(f"Card: {out}")
