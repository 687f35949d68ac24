"""What an audit measures of documents: tokens that need a far context, and text that is there twice. Pure numpy and torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entropylong.corpus.decontamination import Hashes
from entropylong.evaluation.longppl import far_gains
from entropylong.models.causal_lm import CausalLM, Ids

DISTANCES = (512, 2048, 8192, 32768)
# The true token is twice as likely with the far context.
FAR = math.log(2)


@dataclass(frozen=True)
class Reach:
    """How many tokens of a document need context beyond each distance.

    Attributes:
        asked: tokens with more than d + d / 4 before them `[distances]`.
        far: of these, tokens that lose more than ln 2 nats where only the last d .. d + d / 4 - 1 tokens are seen `[distances]`.
        against: tokens that gain as much by it, which is what chance does to a model's readings `[distances]`.
        farthest: tokens for which this is the largest distance at which they are far `[distances]`.
    """

    asked: tuple[int, ...]
    far: tuple[int, ...]
    against: tuple[int, ...]
    farthest: tuple[int, ...]


def window_of(distance: int) -> tuple[int, int]:
    """(window, stride) of `far_gains`, in the proportion of LongPPL: the short context moves by a quarter of its length."""
    return distance, max(1, distance // 4)


def distances_within(tokens: int, distances: Sequence[int] = DISTANCES) -> list[int]:
    """Those that a document of so many tokens can reach beyond."""
    return [d for d in distances if sum(window_of(d)) < tokens]


def reach(model: CausalLM, ids: Ids, distances: Sequence[int], batch_tokens: int = 8192) -> Reach:
    """Which tokens need a context beyond each distance.

    Args:
        model: that reads.
        ids: a document without the model's start prefix `[tokens]`.
        distances: in tokens, ascending.
        batch_tokens: of a forward batch; the whole document goes alone.

    Raises:
        EvaluationError: the model gives no number for a token.
        ModelError: the document does not fit the device's memory.
    """
    gains = far_gains(model, ids, [window_of(d) for d in distances], batch_tokens)
    farthest = np.zeros(len(ids), np.int64)
    for number, of_distance in enumerate(gains, start=1):
        farthest[of_distance.positions[of_distance.gain > FAR]] = number
    return Reach(
        tuple(len(f.positions) for f in gains),
        tuple(int((f.gain > FAR).sum()) for f in gains),
        tuple(int((f.gain < -FAR).sum()) for f in gains),
        tuple(np.bincount(farthest, minlength=len(gains) + 1)[1:].tolist()),
    )


def repeats(documents: Sequence[Hashes]) -> list[tuple[float, float]]:
    """Shares of each document's 13-grams: that stand earlier in it already, and that stand in another of the documents too.

    A document without a 13-gram repeats nothing.
    """
    distinct = [np.unique(hashes) for hashes in documents]
    every, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *distinct]), return_counts=True)
    common = every[counts > 1]
    return [
        (1 - len(own) / len(hashes), float(np.isin(hashes, common).mean())) if len(hashes) else (0.0, 0.0)
        for hashes, own in zip(documents, distinct, strict=True)
    ]
