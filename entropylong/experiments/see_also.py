"""Docstrings that name what belongs to them: their "See Also" targets are links that no model chose. Pure Python."""

from __future__ import annotations

import re
from collections.abc import Mapping

from entropylong.utils.hashing import xxhash64

_SECTION = re.compile(r"^See Also\n-+\n(.*?)(?=\n\n?[^\n]+\n-{3,}|\Z)", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def see_also(text: str) -> list[str]:
    """Names in the "See Also" section of a numpydoc docstring, in order; without their package."""
    section = _SECTION.search(text)
    if section is None:
        return []
    lines = [line for line in section[1].split("\n") if line.strip() and not line.startswith((" ", ".."))]
    names = [name.strip() for line in lines for name in _ROLE.sub(r"\1", line).partition(" :")[0].rstrip(":").split(",")]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names if re.fullmatch(r"[A-Za-z_][\w.]*", name)))


def linked(documents: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Documents that name others of these: doc_id -> doc_ids of what they name, never themselves.

    Args:
        documents: doc_id, a dotted name, -> docstring.
    """
    by_name: dict[str, set[str]] = {}
    for doc_id in documents:
        by_name.setdefault(doc_id.rpartition(".")[2], set()).add(doc_id)
    links = {
        doc_id: frozenset(target for name in see_also(text) for target in by_name.get(name, ()) if target != doc_id)
        for doc_id, text in documents.items()
    }
    return {doc_id: targets for doc_id, targets in links.items() if targets}


def choose(documents: Mapping[str, str], count: int, least_chars: int) -> dict[str, frozenset[str]]:
    """That many documents with links, long enough to be roots, by hash."""
    usable = {doc_id: targets for doc_id, targets in linked(documents).items() if len(documents[doc_id]) >= least_chars}
    return {doc_id: usable[doc_id] for doc_id in sorted(usable, key=lambda d: (xxhash64("see_also", d), d))[:count]}
