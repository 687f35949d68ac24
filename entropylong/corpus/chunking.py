"""Chunks: the units of the retrieval corpus. Pure strings.

`packed_chars` (the rule that NExtLong uses for its meta-chunks): split at newlines, pack paragraphs greedily while the sum
of their characters stays within the target, joined by a newline. One longer paragraph stays whole up to a maximum, then
is split at sentence ends, else at white space, else where it must.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+")


def chunk_text(text: str, *, unit: str, target_chars: int, max_chars: int) -> list[str]:
    """Chunks of a document, in order; blank ones are left out.

    Args:
        text: the document.
        unit: "packed_chars", or "document" for the whole text as one chunk.
        target_chars: a packed chunk's paragraphs sum up to at most this.
        max_chars: a single longer paragraph stays whole up to this.
    """
    if unit == "document":
        return [text] if text.strip() else []
    chunks: list[str] = []
    pending: list[str] = []
    size = 0
    for paragraph in _paragraphs(text, target_chars, max_chars):
        if pending and size + len(paragraph) > target_chars:
            chunks.append("\n".join(pending))
            pending, size = [], 0
        pending.append(paragraph)
        size += len(paragraph)
    if pending:
        chunks.append("\n".join(pending))
    return [chunk for chunk in chunks if chunk.strip()]


def _paragraphs(text: str, target_chars: int, max_chars: int) -> Iterator[str]:
    """Lines of the text; those above max_chars in pieces of at most target_chars."""
    for line in text.split("\n"):
        if len(line) <= max_chars:
            yield line
        else:
            yield from split_long(line, target_chars)


def split_long(line: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` characters that join to `line` again: at sentence ends, else at spaces, else anywhere."""
    start = 0
    while len(line) - start > limit:
        piece = line[start : start + limit]
        ends = [match.end() for match in SENTENCE_END.finditer(piece)]
        cut = ends[-1] if ends else piece.rfind(" ") + 1
        start_next = start + (cut or limit)
        yield line[start:start_next]
        start = start_next
    yield line[start:]
