"""Verification: ours against one unpadded forward pass with full logits for each (anchor, candidate), at both scopes.

Each pair is one root. The naive side runs every cell of scope `all`; scope `retrieved` is the part of these very passes whose
anchor retrieved the chunk, so nothing is timed twice.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import ENCODER, LM, SIZES, START_ID, documents, model_folder, record, say, seconds
from entropylong.corpus.chunking import chunk_text
from entropylong.entropy.anchors import find_anchors
from entropylong.entropy.scoring import Profile, score_texts
from entropylong.models.causal_lm import CausalLM
from entropylong.models.encoder import Encoder
from entropylong.retrieval.windows import window_text
from entropylong.verification.measuring import Pair, measure

ROOT_TOKENS, CONTEXT_TOKENS, ANCHORS, TOP_K, EPSILON = (256, 320), 160, 6, 2, 0.4


@dataclass
class Root:
    """A root with its anchors and what each retrieved."""

    ids: np.ndarray
    entropy: np.ndarray
    anchors: list[int]
    hits: dict[int, list[int]]

    @property
    def chunks(self) -> list[int]:
        """Unique candidates."""
        return sorted({chunk for hits in self.hits.values() for chunk in hits})


class Material:
    """Real roots, real chunks and a real retrieval over them, all by the product's pure layers."""

    def __init__(self, model: CausalLM, roots: int) -> None:
        every = documents()
        chunks = [
            (doc, text)
            for doc, whole in every
            for text in chunk_text(whole, unit="packed_chars", target_chars=2048, max_chars=8192)
        ]
        encoder = Encoder(model_folder(ENCODER))
        vectors = encoder.encode([text for _, text in chunks]).astype(np.float32)
        self.chunks = [np.array(model.encode(text)[:CONTEXT_TOKENS], np.int32) for _, text in chunks]
        self.roots: list[Root] = []
        rule = {"min_tokens": ROOT_TOKENS[0], "max_tokens": ROOT_TOKENS[1], "long": "truncate", "batch_tokens": 4096}
        for doc, profile in score_texts(model, every, **rule):
            if len(self.roots) == roots:
                break
            if not isinstance(profile, Profile):
                continue
            found = find_anchors(profile.entropy, alpha=2.0, min_position=32, max_per_root=ANCHORS).positions.tolist()
            if len(found) < 3:
                continue
            queries = encoder.encode([window_text(model.tokenizer, profile.ids.tolist(), t, window=16, side="both") for t in found])
            scores = queries.astype(np.float32) @ vectors.T
            scores[:, [i for i, (owner, _) in enumerate(chunks) if owner == doc]] = -1
            hits = {t: np.argsort(-row)[:TOP_K].tolist() for t, row in zip(found, scores, strict=True)}
            self.roots.append(Root(profile.ids, profile.entropy, found, hits))


class Naive:
    """One pass a cell over the whole of [start; C; separator; D], full logits, softmax of the one row that is asked for."""

    def __init__(self) -> None:
        folder = model_folder(LM)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.separator = AutoTokenizer.from_pretrained(folder)("\n\n", add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def entropy(self, root: Root, anchor: int, chunk: np.ndarray) -> float:
        """H at the anchor with the chunk in front."""
        front = [START_ID, *chunk.tolist(), *self.separator]
        logits = self.model(torch.tensor([[*front, *root.ids.tolist()]])).logits[0]
        log_p = torch.log_softmax(logits[len(front) + anchor - 1].float(), dim=-1)
        return float(-(log_p.exp() * log_p).sum())


def pairs_of(root: Root, chunks: list[np.ndarray], scope: str) -> list[Pair]:
    """The unique pairs of a root, as Stage 3 plans them."""
    planned = []
    for chunk in root.chunks:
        positions = root.anchors if scope == "all" else [t for t in root.anchors if chunk in root.hits[t]]
        planned.append(Pair(root.ids, chunks[chunk], np.array(positions, np.int32), chunk))
    return planned


def ours(model: CausalLM, pairs: list[Pair], separator: list[int]) -> dict[tuple[int, int], float]:
    """H with context, by (anchor, chunk)."""
    found = {}
    for pair, reading in measure(model, pairs, separator_ids=separator, batch_tokens=4096):
        found |= {(t, pair.tag): float(h) for t, h in zip(pair.positions.tolist(), reading.entropy_with, strict=True)}
    return found


def agreement(
    roots: list[Root], fast: list[dict[tuple[int, int], float]], slow: list[dict[tuple[int, int], float]]
) -> dict[str, float]:
    """Keep-sets of both sides under the paper's rule."""
    cells = mismatches = kept = 0
    margin = error = 0.0
    for root, ours_, naive in zip(roots, fast, slow, strict=True):
        for key, h in ours_.items():
            gains = [(root.entropy[key[0]] - with_) / root.entropy[key[0]] for with_ in (h, naive[key])]
            cells += 1
            kept += gains[1] > EPSILON
            error = max(error, abs(h - naive[key]))
            if (gains[0] > EPSILON) != (gains[1] > EPSILON):
                mismatches += 1
                margin = max(margin, abs(gains[1] - EPSILON))
    return {"cells": cells, "kept": int(kept), "agreement": 1 - mismatches / cells, "mismatch_margin": margin, "largest_dH": error}


def main() -> None:
    """A pair a root at both scopes, then our growth to size 8."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    count = parser.parse_args().pairs
    model, naive = CausalLM(model_folder(LM), "float32", START_ID), Naive()
    separator = model.encode("\n\n")
    material = Material(model, max(count, 2 * SIZES[-1]))
    chunks = material.chunks
    naive.entropy(material.roots[0], material.roots[0].anchors[0], chunks[0])  # the first call pays for memory
    times: dict[str, tuple[list[float], list[float]]] = {"all": ([], []), "retrieved": ([], [])}
    fast: list[dict[tuple[int, int], float]] = []
    slow: list[dict[tuple[int, int], float]] = []
    roots = material.roots[:count]
    for number, root in enumerate(roots):
        spent: dict[tuple[int, int], float] = {}
        slow.append({})

        def literal(root: Root = root, spent: dict[tuple[int, int], float] = spent) -> None:
            for t in root.anchors:
                for c in root.chunks:
                    spent[t, c] = seconds(lambda t=t, c=c: slow[-1].__setitem__((t, c), naive.entropy(root, t, chunks[c])))

        def planned(scope: str, root: Root = root) -> None:
            found: dict[tuple[int, int], float] = {}
            times[scope][0].append(seconds(lambda: found.update(ours(model, pairs_of(root, chunks, scope), separator))))
            if scope == "all":
                fast.append(found)

        # Alternately first, so that a machine that slows down slows both.
        for side in (0, 1) if number % 2 else (1, 0):
            if side:
                literal()
            else:
                planned("all")
                planned("retrieved")
        times["all"][1].append(sum(spent.values()))
        times["retrieved"][1].append(sum(s for (t, c), s in spent.items() if c in root.hits[t]))
        ours_all, naive_all = times["all"]
        say(f"verification, root {number + 1} of {count}: ours {ours_all[-1]:.1f} s, naive {naive_all[-1]:.1f} s at scope all")
    agreed = agreement(roots, fast, slow)
    for scope, (mine, theirs) in times.items():
        passes = [len(r.chunks) for r in roots]
        cells = [len(r.anchors) * len(r.chunks) if scope == "all" else sum(map(len, r.hits.values())) for r in roots]
        sharing = float(np.median([c / p for c, p in zip(cells, passes, strict=True)]))
        line = record(f"verification_{scope}", mine, theirs, roots=count, m=round(sharing, 3), **(agreed if scope == "all" else {}))
        say(f"scope {scope}: ratio {line['ratio']:.2f}, m {sharing:.2f}, so {line['ratio'] / sharing:.2f} m")
    for size in SIZES:
        some = [pair for root in material.roots[: 2 * size] for pair in pairs_of(root, chunks, "all")]
        tokens = sum(len(p.chunk_ids) + int(p.positions.max()) + 1 for p in some)
        spent_ = seconds(lambda some=some: ours(model, some, separator))
        record("verification_growth", [spent_], [], size=size, roots=2 * size, tokens=tokens)


if __name__ == "__main__":
    main()
