"""Query windows: the text around an anchor that is searched with (paper, Stage 2). Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def window_ids(ids: Sequence[int], position: int, *, window: int, side: str) -> list[int]:
    """Tokens [t-w, t+w) of a root, clipped to it; side "left" stops before the anchor: [t-w, t)."""
    end = position if side == "left" else position + window
    return list(ids[max(0, position - window) : end])


def window_text(tokenizer: Any, ids: Sequence[int], position: int, *, window: int, side: str) -> str:
    """The decoded query window of an anchor."""
    tokens = window_ids(ids, position, window=window, side=side)
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
