"""The nearest of some vectors, own chunks and copies left out: what every way of searching is made of. Pure numpy and faiss.

All vectors are on the grid (grid.py) as float32, so scores are exact; equal scores are ordered by id. A ranking depends on the
data alone: to search a whole, or its parts and merge, gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from entropylong.retrieval.grid import Floats

Ints = npt.NDArray[np.int64]

# Fetched beyond what is asked for, as ties at the cut are decided by id and not by faiss.
TIE_MARGIN = 8
# A query with more excluded chunks among the vectors than this goes by itself.
MANY_EXCLUDED = 64
NOTHING, NO_ID = np.float32(-np.inf), -1


@dataclass
class Nearest:
    """The best of each query so far, best first: scores and ids `[queries, k]`, NOTHING and NO_ID where there are fewer."""

    scores: Floats
    ids: Ints

    @classmethod
    def empty(cls, queries: int, k: int) -> Nearest:
        return cls(np.full((queries, k), NOTHING, np.float32), np.full((queries, k), NO_ID, np.int64))

    def merge(self, rows: Ints, other: Nearest) -> None:
        """Take what another search found for the queries `rows`."""
        k = self.ids.shape[1]
        scores = np.concatenate([self.scores[rows], other.scores], axis=1)
        ids = np.concatenate([self.ids[rows], other.ids], axis=1)
        order = np.lexsort((ids, -scores), axis=-1)[:, :k]
        self.scores[rows] = np.take_along_axis(scores, order, axis=1)
        self.ids[rows] = np.take_along_axis(ids, order, axis=1)


@dataclass(frozen=True)
class Vectors:
    """Vectors to search: float32 `[n, d]` on the grid, with ids and hashes of their texts `[n]`."""

    values: Floats
    ids: Ints
    text_hashes: Ints


class Exclusions:
    """Which texts each owner of queries leaves out: those of its own document, and so every copy of them.

    Args:
        own: hashes of each owner's texts.
    """

    def __init__(self, own: Sequence[Sequence[int]]) -> None:
        pairs = np.array([(text, owner) for owner, texts in enumerate(own) for text in set(texts)], np.int64).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        self._texts, self._owners = pairs[:, 0].copy(), pairs[:, 1].copy()

    def rows(self, text_hashes: Ints) -> dict[int, Ints]:
        """Of each owner that leaves out any of the vectors: their rows."""
        first = np.searchsorted(self._texts, text_hashes, "left")
        counts = np.searchsorted(self._texts, text_hashes, "right") - first
        excluded: dict[int, list[int]] = {}
        for row in np.flatnonzero(counts).tolist():
            for owner in self._owners[first[row] : first[row] + counts[row]].tolist():
                excluded.setdefault(owner, []).append(row)
        return {owner: np.array(rows, np.int64) for owner, rows in excluded.items()}


def nearest(queries: Floats, vectors: Vectors, k: int, owners: Ints | None = None, exclusions: Exclusions | None = None) -> Nearest:
    """The k best vectors of each query, its owner's own texts left out.

    Args:
        queries: float32 `[m, d]` on the grid.
        vectors: what to search.
        k: how many.
        owners: of each query `[m]`, its number in `exclusions`.
        exclusions: None leaves out nothing.
    """
    best = Nearest.empty(len(queries), k)
    if not len(queries) or not len(vectors.ids):
        return best
    excluded = exclusions.rows(vectors.text_hashes) if exclusions is not None else {}
    whose = np.zeros(len(queries), np.int64) if owners is None else owners
    many = [owner for owner, rows in excluded.items() if len(rows) > MANY_EXCLUDED]
    groups = [np.flatnonzero(whose == owner) for owner in many]
    groups.append(np.flatnonzero(~np.isin(whose, many)) if many else np.arange(len(queries)))
    for group in groups:
        if len(group):
            part = _fetch(queries[group], vectors, k, whose[group], excluded)
            best.scores[group, : part.ids.shape[1]] = part.scores
            best.ids[group, : part.ids.shape[1]] = part.ids
    return best


def _fetch(queries: Floats, vectors: Vectors, k: int, owners: Ints, excluded: dict[int, Ints]) -> Nearest:
    concerned = [owner for owner in np.unique(owners).tolist() if owner in excluded]
    most = max((len(excluded[owner]) for owner in concerned), default=0)
    n = len(vectors.ids)
    take = min(k + TIE_MARGIN + most, n)
    scores, rows = faiss.knn(queries, vectors.values, take, metric=faiss.METRIC_INNER_PRODUCT)
    last = scores[:, -1].copy()
    for owner in concerned:
        of_owner = np.flatnonzero(owners == owner)
        scores[of_owner] = np.where(np.isin(rows[of_owner], excluded[owner]), NOTHING, scores[of_owner])
    ids = np.where(scores == NOTHING, NO_ID, vectors.ids[rows])
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    best = Nearest(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))
    if take < n:
        # As good as the last one fetched: one that was not fetched may be as good and have a smaller id.
        for query in np.flatnonzero(best.scores[:, -1] <= last).tolist():
            _in_full(queries[query], vectors, excluded.get(int(owners[query])), best, query)
    return best


def _in_full(query: Floats, vectors: Vectors, left_out: Ints | None, best: Nearest, row: int) -> None:
    scores = vectors.values @ query
    ids = vectors.ids.copy()
    if left_out is not None:
        scores[left_out], ids[left_out] = NOTHING, NO_ID
    order = np.lexsort((ids, -scores))[: best.ids.shape[1]]
    best.scores[row], best.ids[row] = scores[order], ids[order]
