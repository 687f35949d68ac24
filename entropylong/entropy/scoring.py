"""Texts -> entropy profiles of roots (paper, Stage 1). Pure torch; what the `score` stage runs on executors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.corpus.decontamination import Shared
from entropylong.corpus.roots import SPLIT, root_ids, split_ids
from entropylong.entropy.engine import Reading, Request, read_stream
from entropylong.models.causal_lm import CausalLM, Ids
from entropylong.storage.codes import CONTAMINATED
from entropylong.utils.isolation import reason_of
from entropylong.utils.prefetch import prefetch

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Profile:
    """A scored root: its ids, and H and NLL of every position in nats, `[tokens]` each. NaN: position 0, no start token."""

    ids: Ids
    entropy: Floats
    nll: Floats


@dataclass(frozen=True)
class Refusal:
    """Why a text has no profile."""

    outcome: str
    code: str
    detail: str


def score_texts(
    model: CausalLM,
    texts: Iterable[tuple[Any, str]],
    *,
    min_tokens: int,
    max_tokens: int,
    long: str,
    batch_tokens: int,
    shares_with: Callable[[str], Shared | None] = lambda text: None,
) -> Iterator[tuple[Any, Profile | Refusal]]:
    """Tokenise, cut and score texts, given as (key, text).

    The next texts are tokenised while the model is at work. Texts are held a bounded buffer at a time. A text that shares words
    with an evaluation set is refused whole, also where they stand beyond `max_tokens` or in another piece.

    Yields:
        (key, its `Profile` or `Refusal`), in an order of its own. With long "split" the keys are document ids, and what comes
        back are root ids, one or more a document.
    """
    front = np.array(model.prefix, np.int32)
    first = 0 if len(front) else 1
    tokenised = (piece for key, text in texts for piece in _pieces(model, key, text, min_tokens, max_tokens, long, shares_with))
    refused: list[tuple[Any, Refusal]] = []

    def requests() -> Iterator[Request]:
        for key, piece in prefetch(tokenised):
            if isinstance(piece, Refusal):
                refused.append((key, piece))
            else:
                positions = np.arange(first, len(piece), dtype=np.int32) + np.int32(len(front))
                yield Request(np.concatenate([front, piece]), positions, (key, piece))

    for request, reading in read_stream(model, requests(), batch_tokens=batch_tokens):
        key, ids = request.tag
        yield key, _profile(ids, reading, first)
        yield from refused
        refused.clear()
    yield from refused


def _pieces(
    model: CausalLM, key: Any, text: str, min_tokens: int, max_tokens: int, long: str, shares_with: Callable[[str], Shared | None]
) -> Iterator[tuple[Any, Ids | Refusal]]:
    shared = shares_with(text)
    result = Refusal("error", CONTAMINATED, str(shared)) if shared else _tokenise(model, text, min_tokens, max_tokens, long)
    if long != SPLIT:
        yield key, result
    elif isinstance(result, Refusal):
        yield root_ids(key, 1, long)[0], result
    else:
        pieces = split_ids(result, max_tokens)
        yield from zip(root_ids(key, len(pieces), long), pieces, strict=True)


def _tokenise(model: CausalLM, text: str, min_tokens: int, max_tokens: int, long: str) -> Ids | Refusal:
    try:
        ids = np.array(model.encode(text), np.int32)
    except Exception as error:  # a tokenizer may raise anything on a poisonous text: it costs this row only
        return Refusal("error", "TOKENIZER_FAILED", reason_of(error))
    if len(ids) < min_tokens:
        return Refusal("skipped", "TOO_SHORT", f"{len(ids)} tokens, fewer than roots.min_tokens ({min_tokens})")
    if len(ids) > max_tokens and long == "skip":
        return Refusal("skipped", "TOO_LONG", f"{len(ids)} tokens, more than roots.max_tokens ({max_tokens})")
    return ids if long == SPLIT else ids[:max_tokens]


def _profile(ids: Ids, reading: Reading, first: int) -> Profile | Refusal:
    if reading.failure:
        return Refusal("error", "MODEL_FAILED", reading.failure)
    finite = np.isfinite(reading.entropy) & np.isfinite(reading.nll)
    if not finite.all():
        at = int(np.flatnonzero(~finite)[0]) + first
        return Refusal("error", "NON_FINITE", f"the model's logits are not finite at position {at}")
    unknown = np.full(first, np.nan, np.float32)
    return Profile(ids, np.concatenate([unknown, reading.entropy]), np.concatenate([unknown, reading.nll]))
