"""Quest (ICLR 2025): the keyword that a document is filed under. RAKE is python-rake's; pure strings."""

from __future__ import annotations

from functools import cache
from typing import Any

import RAKE

from entropylong.utils.hashing import xxhash64

# Below it a phrase is a single word or says too little (Quest).
LEAST_SCORE = 3.0
LEAST_CHARS = 3
# What fits any document: phrases of questions, and of texts about texts.
STOCK = frozenset({
    "following example", "following code", "main idea", "main purpose", "main topic", "best way", "good example", "different types",
    "default value", "see also", "read more", "click here", "last updated", "rights reserved", "terms of service", "privacy policy",
    "cookie policy", "given text", "document describes", "question answer",
})  # fmt: skip


@cache
def _rake() -> Any:
    return RAKE.Rake(RAKE.SmartStopList())


def keywords(text: str) -> list[str]:
    """Phrases of a text that RAKE scores 3.0 or higher and that are no stock phrases, best first, each once."""
    scored_phrases = _rake().run(" ".join(text.split()), minCharacters=LEAST_CHARS, maxWords=4)
    phrases = (" ".join(phrase.split()) for phrase, score in scored_phrases if score >= LEAST_SCORE)
    return list(dict.fromkeys(p for p in phrases if p not in STOCK and any(c.isalpha() for c in p)))


def representative(text: str, doc_id: str, seed: int) -> str | None:
    """One keyword of a document's query, chosen by hash; None if it has none."""
    phrases = sorted(keywords(text))
    return phrases[xxhash64(seed, doc_id) % len(phrases)] if phrases else None
