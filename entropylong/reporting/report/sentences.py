"""Text for the gallery: what a token stands for, the sentences of a context, what each of them was worth. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from entropylong.corpus.chunking import SENTENCE_END

# Tokens of one character at most: bytes of UTF-8, with room for a tokenizer that cuts finer.
_LONGEST = 8
_UNFINISHED = "�"
# Sentences that are told apart in a context; each costs a forward pass.
MOST_SENTENCES = 8


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token shows, joined to the whole text. Of a character in several tokens the last one shows it."""
    texts: list[str] = []
    held: list[int] = []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        if text.endswith(_UNFINISHED) and len(held) < _LONGEST:
            texts.append("")
        else:
            texts.append(text)
            held = []
    if held:
        texts[-1] = tokenizer.decode(held)
    return texts


def sentences(text: str) -> list[str]:
    """Pieces that join to the text again, at line ends and sentence ends, at most `MOST_SENTENCES`."""
    pieces: list[str] = []
    for line in text.splitlines(keepends=True):
        starts = [0, *(match.end() for match in SENTENCE_END.finditer(line)), len(line)]
        pieces += [line[a:b] for a, b in pairwise(starts) if b > a]
    merged: list[str] = []
    for piece in pieces:
        # A blank line, or what is too short to say anything, goes with what stands before it.
        if merged and len(piece.strip()) < 3:
            merged[-1] += piece
        else:
            merged.append(piece)
    while len(merged) > MOST_SENTENCES:
        at = min(range(len(merged) - 1), key=lambda n: len(merged[n]) + len(merged[n + 1]))
        merged[at : at + 2] = [merged[at] + merged[at + 1]]
    return merged


def without_each(pieces: Sequence[str]) -> list[str]:
    """The text without each of its pieces in turn."""
    return ["".join([*pieces[:n], *pieces[n + 1 :]]) for n in range(len(pieces))]


@dataclass(frozen=True)
class Sentence:
    """A piece of a context.

    Attributes:
        share: of the fall in entropy that is lost without it; negative where the anchor is clearer without it.
        answers: whether it is the one that most is lost without.
    """

    text: str
    share: float
    answers: bool


def weigh(pieces: Sequence[str], alone: float, whole: float, without: Sequence[float]) -> list[Sentence]:
    """Which sentence answers.

    Args:
        pieces: of the context.
        alone: entropy at the anchor without any context, in nats.
        whole: with the whole context.
        without: with the context but for each piece.
    """
    fall = alone - whole
    shares = [(value - whole) / fall if fall > 0 else 0.0 for value in without]
    best = max(range(len(pieces)), key=lambda n: shares[n]) if pieces and fall > 0 else -1
    return [Sentence(text, share, n == best and share > 0) for n, (text, share) in enumerate(zip(pieces, shares, strict=True))]
