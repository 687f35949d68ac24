"""The forward passes of Stage 3: one a (root, chunk) pair, read at all its anchors. Pure torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.entropy.engine import Reading, Request, read_after, read_stream
from entropylong.models.causal_lm import CausalLM
from entropylong.utils.prefetch import prefetch
from entropylong.verification.copying import copy_lengths
from entropylong.verification.reuse import is_worthwhile

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

# Pairs of one chunk that are looked at together.
GROUP = 64


@dataclass(frozen=True)
class Pair:
    """A root and a chunk to prepend to it.

    Attributes:
        root_ids: ids of the root, at least up to its last asked position `[root tokens]`.
        chunk_ids: ids of the chunk, cut to contexts.max_tokens `[chunk tokens]`.
        positions: the anchors to read, 0-based in the root `[anchors]`.
        tag: whatever the caller wants back with the reading.
    """

    root_ids: Ints
    chunk_ids: Ints
    positions: Ints
    tag: Any = None


@dataclass(frozen=True)
class PairReading:
    """Raw measurements of a pair at its positions, `[anchors]` each; no threshold is applied here."""

    entropy_with: Floats
    nll_with: Floats
    copy_len: Ints
    failure: str = ""


def measure(
    model: CausalLM, pairs: Iterable[Pair], *, separator_ids: Sequence[int], batch_tokens: int, reuse: bool = False
) -> Iterator[tuple[Pair, PairReading]]:
    """Entropy and NLL at each pair's anchors with the chunk in front: [start] + C + separator + D (paper, Stage 3).

    An empty chunk stands without a separator, so it gives back the baseline of Stage 1. The next pairs are prepared while the
    model is at work.

    Args:
        model: the causal LM.
        pairs: what to measure; with `reuse`, pairs of one chunk in a row.
        separator_ids: what joins chunk and root.
        batch_tokens: tokens of a forward batch, padding included.
        reuse: compute keys and values of a chunk once for its roots, where that is worthwhile.

    Yields:
        Each pair with its reading, in an order of its own.
    """
    prepared = prefetch(_requests(model, pairs, separator_ids))
    if not reuse:
        yield from _measure_alone(model, prepared, batch_tokens)
        return
    alone: list[Request] = []
    for group in _groups(prepared):
        if _shares(model, group):
            yield from _measure_group(model, group, batch_tokens)
        else:
            alone += group
        if len(alone) >= GROUP:
            yield from _measure_alone(model, alone, batch_tokens)
            alone = []
    yield from _measure_alone(model, alone, batch_tokens)


@dataclass(frozen=True)
class _Asked:
    """What belongs to a request: its pair, the tokens in front of the root, and the copies."""

    pair: Pair
    front: int
    copies: Ints


def _requests(model: CausalLM, pairs: Iterable[Pair], separator_ids: Sequence[int]) -> Iterator[Request]:
    for pair in pairs:
        front = [*model.prefix, *pair.chunk_ids.tolist(), *(separator_ids if len(pair.chunk_ids) else ())]
        copies = copy_lengths(pair.chunk_ids, pair.root_ids, pair.positions)
        ids = np.concatenate([np.array(front, np.int32), pair.root_ids])
        yield Request(ids, pair.positions + np.int32(len(front)), _Asked(pair, len(front), copies))


def _result(request: Request, reading: Reading) -> tuple[Pair, PairReading]:
    return request.tag.pair, PairReading(reading.entropy, reading.nll, request.tag.copies, reading.failure)


def _groups(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Requests of one chunk that follow each other, a bounded number at a time."""
    for _, same in groupby(requests, key=lambda request: request.tag.pair.chunk_ids.tobytes()):
        while group := list(islice(same, GROUP)):
            yield group


def _measure_alone(model: CausalLM, requests: Iterable[Request], batch_tokens: int) -> Iterator[tuple[Pair, PairReading]]:
    for request, reading in read_stream(model, requests, batch_tokens=batch_tokens):
        yield _result(request, reading)


def _shares(model: CausalLM, group: Sequence[Request]) -> bool:
    front = group[0].tag.front
    roots = [request.length - front for request in group]
    return front > 1 and is_worthwhile(model.shape, front, len(group), sum(roots) / len(roots))


def _measure_group(model: CausalLM, group: Sequence[Request], batch_tokens: int) -> Iterator[tuple[Pair, PairReading]]:
    # The last token in front stays with the roots: what it predicts is the root's position 0.
    shared = group[0].tag.front - 1
    rest = [Request(r.ids[shared:], r.positions - np.int32(shared), r) for r in group]
    for request, reading in read_after(model, group[0].ids[:shared], rest, batch_tokens=batch_tokens):
        yield _result(request.tag, reading)
