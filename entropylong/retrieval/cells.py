"""The coarse quantizer: cells of the vector space, by spherical k-means on a sample. Pure numpy and faiss."""

from __future__ import annotations

import faiss
import numpy as np

from entropylong.retrieval.grid import SCALE, Floats, Grid
from entropylong.retrieval.scoring import Ints, Vectors, nearest
from entropylong.retrieval.sizing import SAMPLE_A_CELL

ITERATIONS = 10


def train_cells(sample: Grid, cells: int, seed: int) -> Grid:
    """Centroids `[cells, d]` on the grid, from sampled vectors. Of the machine's threads: keep the result, do not train twice."""
    values = sample.astype(np.float32) / SCALE
    if cells == 1:
        middle = values.mean(axis=0, keepdims=True)
        return np.asarray(np.rint(SCALE * middle / max(1e-6, float(np.linalg.norm(middle)))), np.int16)
    kmeans = faiss.Kmeans(
        values.shape[1], cells, niter=ITERATIONS, spherical=True, seed=seed % 2**31,
        min_points_per_centroid=1, max_points_per_centroid=4 * SAMPLE_A_CELL,
    )  # fmt: skip
    kmeans.train(values)
    return np.asarray(np.rint(np.asarray(kmeans.centroids) * SCALE), np.int16)


class Cells:
    """The cells of an index.

    Args:
        centroids: `[cells, d]` on the grid.
    """

    def __init__(self, centroids: Grid) -> None:
        count = len(centroids)
        self._vectors = Vectors(centroids.astype(np.float32), np.arange(count), np.zeros(count, np.int64))

    def __len__(self) -> int:
        return len(self._vectors.ids)

    def nearest(self, vectors: Floats, n: int) -> Ints:
        """The n nearest cells of each vector `[m, min(n, cells)]`, nearest first; exact, so the same wherever it is asked."""
        return nearest(vectors, self._vectors, min(n, len(self))).ids

    def ranks(self, vectors: Floats, cells: Ints) -> Ints:
        """The place of one cell among all cells of each vector, the nearest first, from 1 `[m]`."""
        scores = vectors @ self._vectors.values.T
        own = np.take_along_axis(scores, cells[:, None].astype(np.int64), axis=1)
        before = (scores > own) | ((scores == own) & (self._vectors.ids[None] < cells[:, None]))
        ranks: Ints = before.sum(axis=1) + 1
        return ranks
