"""A generated corpus: Parquet files of texts of a web crawl's length, with copies and damage in it. The same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS, SENTENCES, A_FILE = 20_000, 40_000, 500
COPIES, DAMAGED = 0.02, 0.005


class Generator:
    """Gives one document after the other.

    Args:
        folder: Where the files go.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.documents = folder, 0
        self._rng = np.random.default_rng(seed)
        self._sentences = self._make_sentences()
        self._recent: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def grow(self, documents: int) -> None:
        """Add so many documents, 500 a file."""
        for _ in range(documents // A_FILE):
            rows = [self._row() for _ in range(A_FILE)]
            # A column of strings that may hold bytes which are none, as files of the wild do.
            texts = pa.array([text for _, text in rows], pa.binary())
            columns = {
                "id": pa.array([name for name, _ in rows]),
                "text": pa.Array.from_buffers(pa.string(), A_FILE, texts.buffers()),
            }
            pq.write_table(pa.table(columns), self.folder / f"{self.documents // A_FILE:06d}.parquet")

    def _row(self) -> tuple[str, bytes]:
        number, kind = self.documents, self._rng.random()
        self.documents += 1
        if kind < COPIES and self._recent:
            text = self._recent[int(self._rng.integers(len(self._recent)))]
        else:
            picked = self._rng.integers(SENTENCES, size=int(self._rng.integers(8, 20)))
            text = " ".join(self._sentences[one] for one in picked)
            if number % 16 == 0:
                self._recent = [*self._recent[-2000:], text]
        data = text.encode()
        return f"doc-{number:09d}", data[:40] + b"\xff" + data[40:] if kind > 1 - DAMAGED else data

    def _make_sentences(self) -> list[str]:
        letters = np.array(list("etaoinshrdlucmfwypvbgk"))
        words = ["".join(self._rng.choice(letters, size=int(length))) for length in self._rng.integers(2, 10, WORDS)]
        weights = 1.0 / np.arange(1, WORDS + 1)
        drawn = self._rng.choice(WORDS, size=(SENTENCES, 18), p=weights / weights.sum())
        return [" ".join(words[one] for one in sentence).capitalize() + "." for sentence in drawn]
