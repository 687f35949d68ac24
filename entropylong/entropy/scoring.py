"""Texts -> entropy profiles of roots (paper, Stage 1). Pure torch; what the `score` stage runs on executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropylong.models.causal_lm import CausalLM, Ids, entropy_at

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
    model: CausalLM, texts: Sequence[str], *, min_tokens: int, max_tokens: int, long: str, batch_tokens: int
) -> list[Profile | Refusal]:
    """Tokenise, cut and score texts; one `Profile` or `Refusal` a text, in order."""
    results: list[Profile | Refusal] = [_tokenise(model, text, min_tokens, max_tokens, long) for text in texts]
    scored = [i for i, result in enumerate(results) if isinstance(result, Profile)]
    front = np.array(model.prefix, np.int32)
    first = 0 if len(front) else 1
    sequences, positions = [], []
    for i in scored:
        ids = results[i].ids  # type: ignore[union-attr]
        sequences.append(np.concatenate([front, ids]))
        positions.append(np.arange(first, len(ids), dtype=np.int32) + np.int32(len(front)))
    for i, reading in zip(scored, entropy_at(model, sequences, positions, batch_tokens=batch_tokens), strict=True):
        results[i] = _profile(results[i].ids, reading.entropy, reading.nll, first)  # type: ignore[union-attr]
    return results


def _tokenise(model: CausalLM, text: str, min_tokens: int, max_tokens: int, long: str) -> Profile | Refusal:
    try:
        ids = np.array(model.encode(text), np.int32)
    except Exception as error:  # a tokenizer may raise anything on a poisonous text: it costs this row only
        return Refusal("error", "TOKENIZER_FAILED", f"{type(error).__name__}: {' '.join(str(error).split())}"[:512])
    if len(ids) < min_tokens:
        return Refusal("skipped", "TOO_SHORT", f"{len(ids)} tokens, fewer than roots.min_tokens ({min_tokens})")
    if len(ids) > max_tokens and long == "skip":
        return Refusal("skipped", "TOO_LONG", f"{len(ids)} tokens, more than roots.max_tokens ({max_tokens})")
    empty = np.zeros(0, np.float32)
    return Profile(ids[:max_tokens], empty, empty)


def _profile(ids: Ids, entropy: Floats, nll: Floats, first: int) -> Profile | Refusal:
    if not (np.isfinite(entropy).all() and np.isfinite(nll).all()):
        at = int(np.flatnonzero(~(np.isfinite(entropy) & np.isfinite(nll)))[0]) + first
        return Refusal("error", "NON_FINITE", f"the model's logits are not finite at position {at}")
    unknown = np.full(first, np.nan, np.float32)
    return Profile(ids, np.concatenate([unknown, entropy]), np.concatenate([unknown, nll]))
