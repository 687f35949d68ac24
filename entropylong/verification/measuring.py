"""The forward passes of Stage 3: one a (root, chunk) pair, read at all its anchors. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropylong.models.causal_lm import CausalLM, entropy_at
from entropylong.verification.copying import copy_lengths

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """A root and a chunk to prepend to it.

    Attributes:
        root_ids: ids of the root, at least up to its last asked position `[root tokens]`.
        chunk_ids: ids of the chunk, cut to contexts.max_tokens `[chunk tokens]`.
        positions: the anchors to read, 0-based in the root `[anchors]`.
    """

    root_ids: Ints
    chunk_ids: Ints
    positions: Ints


@dataclass(frozen=True)
class PairReading:
    """Raw measurements of a pair at its positions, `[anchors]` each; no threshold is applied here."""

    entropy_with: Floats
    nll_with: Floats
    copy_len: Ints


def measure(model: CausalLM, pairs: Sequence[Pair], *, separator_ids: Sequence[int], batch_tokens: int) -> list[PairReading]:
    """Entropy and NLL at each pair's anchors with the chunk in front: [start] + C + separator + D (paper, Stage 3).

    An empty chunk stands without a separator, so it gives back the baseline of Stage 1.
    """
    sequences, positions = [], []
    for pair in pairs:
        front = np.array([*model.prefix, *pair.chunk_ids, *(separator_ids if len(pair.chunk_ids) else ())], np.int32)
        sequences.append(np.concatenate([front, pair.root_ids]))
        positions.append(pair.positions + np.int32(len(front)))
    readings = entropy_at(model, sequences, positions, batch_tokens=batch_tokens)
    return [
        PairReading(reading.entropy, reading.nll, copy_lengths(pair.chunk_ids, pair.root_ids, pair.positions))
        for pair, reading in zip(pairs, readings, strict=True)
    ]
