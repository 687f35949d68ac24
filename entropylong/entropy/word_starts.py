"""Which tokens start a word, for `anchors.word_start_only`. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# How tokenizers write a leading space: byte-level BPE and SentencePiece.
_SPACE_MARKS = ("Ġ", "▁", " ")


def word_starts(tokenizer: Any, ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Mask `[tokens]`: the token begins with a space, or follows white space, and holds a letter or digit."""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    starts = np.zeros(len(pieces), bool)
    after_space = True
    for i, piece in enumerate(pieces):
        text = tokenizer.decode([ids[i]], clean_up_tokenization_spaces=False)
        spaced = piece.startswith(_SPACE_MARKS) or text[:1].isspace()
        starts[i] = (spaced or after_space) and any(c.isalnum() for c in text)
        after_space = text[-1:].isspace() or (not text.strip() and bool(text))
    return starts
