"""The method by the book, as a user would write it first: no batching, no sharing, no code of the product.

One forward pass with full logits for each (anchor, candidate), softmax in float64, cosine by brute force.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Found:
    """What the oracle finds for one root."""

    ids: list[int]
    entropy: list[float]
    threshold: float
    anchors: list[int] = field(default_factory=list)
    candidates: dict[int, list[int]] = field(default_factory=dict)
    entropy_with: dict[tuple[int, int], float] = field(default_factory=dict)
    kept: set[tuple[int, int]] = field(default_factory=set)


class Oracle:
    """The paper's literal setting over given chunks."""

    def __init__(self, lm: Path, encoder: Path, start: int, chunks: dict[int, tuple[str, str]], cut: int, top_k: int) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(lm)
        self.encoder = SentenceTransformer(str(encoder), device="cpu")
        self.start, self.chunks, self.cut, self.top_k = start, chunks, cut, top_k
        self.ids = sorted(chunks)
        self.vectors = self._embed([chunks[i][1] for i in self.ids])

    def _embed(self, texts: list[str]) -> np.ndarray:
        raw = self.encoder.encode(texts, show_progress_bar=False).astype(np.float64)
        unit = raw / np.sqrt((raw**2).sum(axis=1, keepdims=True))
        return unit.astype(np.float16).astype(np.float64)

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _entropies(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0].double()
        p = torch.softmax(logits, dim=-1)
        return -(p * torch.log(p.clamp_min(1e-300))).sum(-1)

    def root(self, doc_id: str, text: str, max_tokens: int, alpha: float, first: int, window: int, epsilon: float) -> Found:
        ids = self._tokens(text)[:max_tokens]
        entropy = self._entropies([self.start, *ids])[:-1].tolist()
        body = entropy[first:]
        mean = sum(body) / len(body)
        std = math.sqrt(sum((h - mean) ** 2 for h in body) / len(body))
        result = Found(ids, entropy, mean + alpha * std)
        result.anchors = [t for t in range(first, len(ids)) if entropy[t] > result.threshold]
        own = {text for _, (owner, text) in self.chunks.items() if owner == doc_id}
        allowed = [i for i, c in enumerate(self.ids) if self.chunks[c][0] != doc_id and self.chunks[c][1] not in own]
        for t in result.anchors:
            query = self.tokenizer.decode(ids[max(0, t - window) : t + window])
            scores = self.vectors @ self._embed([query])[0]
            best = sorted(allowed, key=lambda i: (-scores[i], self.ids[i]))[: self.top_k]
            result.candidates[t] = [self.ids[i] for i in best]
            for chunk in result.candidates[t]:
                context = self._tokens(self.chunks[chunk][1])[: self.cut]
                after = float(self._entropies([self.start, *context, *ids[:t]])[-1])
                result.entropy_with[t, chunk] = after
                if (entropy[t] - after) / entropy[t] > epsilon:
                    result.kept.add((t, chunk))
        return result
