"""NExtLong and KNN for one document: which of its neighbours follow it, or its meta-chunks. Pure numpy.

A searcher gives nearest chunks; the document's own chunks and their copies are never among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from entropylong.retrieval.grid import Grid

# (vectors `[m, d]` on the grid, k) -> the k nearest chunk ids of each, best first.
Search = Callable[[Grid, int], list[list[int]]]


@dataclass(frozen=True)
class Link:
    """A piece of a document run: a piece of the document by its number, or a neighbour by its chunk id."""

    own: int | None
    chunk_id: int | None


def neighbours_wanted(length: int, chars: int, tokens: int, meta_chunks: int, chunk_chars: int) -> int:
    """k = (T E 1.5 - S) / (p s): neighbours of each meta-chunk, at least one (NExtLong, ICML 2025).

    Args:
        length: T, tokens of a sequence.
        chars, tokens: S, characters of the document, and its tokens, which give E, characters a token.
        meta_chunks: p.
        chunk_chars: s, characters of a chunk.
    """
    return max(1, math.ceil((length * chars / tokens * 1.5 - chars) / (meta_chunks * chunk_chars)))


def nextlong(vectors: Grid, k: int, search: Search) -> list[Link]:
    """l_1 ... l_p, each a meta-chunk and then its k nearest chunks, none of them twice.

    Args:
        vectors: of the meta-chunks `[p, d]`.
        k: neighbours of each.
        search: gives them.
    """
    links: list[Link] = []
    used: set[int] = set()
    # So many that k new ones are among them whatever the others took.
    for number, ids in enumerate(search(vectors, k * len(vectors))):
        new = [chunk for chunk in ids if chunk not in used][:k]
        used.update(new)
        links += [Link(number, None), *(Link(None, chunk) for chunk in new)]
    return links


def knn(vectors: Grid, k: int, search: Search) -> list[Link]:
    """The whole document, then the k chunks nearest to the mean of its meta-chunks, best first.

    Args:
        vectors: of the meta-chunks `[p, d]`.
        k: neighbours of all of them together.
        search: gives them.
    """
    mean = np.rint(vectors.astype(np.float64).mean(axis=0, keepdims=True)).astype(vectors.dtype)
    return [Link(0, None), *(Link(None, chunk) for chunk in search(mean, k)[0])]
