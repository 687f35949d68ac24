"""Real roots, real chunks and a real retrieval over them, all by the product's pure layers: what verification is timed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import documents
from entropylong.corpus.chunking import chunk_text
from entropylong.entropy.anchors import find_anchors
from entropylong.entropy.scoring import Profile, score_texts
from entropylong.models.causal_lm import CausalLM
from entropylong.models.encoder import Encoder
from entropylong.retrieval.windows import window_text
from entropylong.verification.measuring import Pair

LEAST_ANCHORS = 3


@dataclass
class Root:
    """A root with its anchors and what each retrieved."""

    ids: np.ndarray
    entropy: np.ndarray
    nll: np.ndarray
    anchors: list[int]
    hits: dict[int, list[int]]

    @property
    def chunks(self) -> list[int]:
        """Unique candidates."""
        return sorted({chunk for hits in self.hits.values() for chunk in hits})

    def pairs(self, chunks: list[np.ndarray], scope: str) -> list[Pair]:
        """The unique pairs, as Stage 3 plans them; each tag is the chunk's number."""
        planned = []
        for chunk in self.chunks:
            positions = self.anchors if scope == "all" else self.retrieved(chunk)
            planned.append(Pair(self.ids, chunks[chunk], np.array(positions, np.int32), chunk))
        return planned

    def retrieved(self, chunk: int) -> list[int]:
        """The anchors that retrieved a chunk."""
        return [t for t in self.anchors if chunk in self.hits[t]]


class Material:
    """So many roots of so many tokens, the corpus in chunks of at most so many, and `top_k` hits of each anchor."""

    def __init__(
        self,
        model: CausalLM,
        encoder_folder: Path,
        roots: int,
        *,
        root_tokens: tuple[int, int],
        context_tokens: int,
        anchors: int,
        top_k: int,
    ) -> None:
        every = documents()
        rule = {"unit": "packed_chars", "target_chars": 2048, "max_chars": 8192}
        chunks = [(doc, text) for doc, whole in every for text in chunk_text(whole, **rule)]
        encoder = Encoder(encoder_folder)
        vectors = encoder.encode([text for _, text in chunks]).astype(np.float32)
        self.chunks = [np.array(model.encode(text)[:context_tokens], np.int32) for _, text in chunks]
        self.roots: list[Root] = []
        lengths = {"min_tokens": root_tokens[0], "max_tokens": root_tokens[1], "long": "truncate", "batch_tokens": 1024}
        for doc, profile in score_texts(model, every, **lengths):
            if len(self.roots) == roots:
                break
            if not isinstance(profile, Profile):
                continue
            positions = find_anchors(profile.entropy, alpha=2.0, min_position=32, max_per_root=anchors).positions.tolist()
            if len(positions) < LEAST_ANCHORS:
                continue
            queries = encoder.encode(
                [window_text(model.tokenizer, profile.ids.tolist(), t, window=16, side="both") for t in positions]
            )
            scores = queries.astype(np.float32) @ vectors.T
            scores[:, [i for i, (owner, _) in enumerate(chunks) if owner == doc]] = -1
            hits = {t: np.argsort(-row)[:top_k].tolist() for t, row in zip(positions, scores, strict=True)}
            self.roots.append(Root(profile.ids, profile.entropy, profile.nll, positions, hits))
