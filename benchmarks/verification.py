"""Verification: ours against one unpadded forward pass with full logits for each (anchor, candidate), at both scopes.

Each pair is one root. The naive side runs every cell of scope `all`; scope `retrieved` is the part of these very passes whose
anchor retrieved the chunk, so nothing is timed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import SIZES, START_ID, argument_parser, model_folder
from benchmarks.material import Material, Root
from benchmarks.timing import record, say, seconds
from entropylong.models.causal_lm import CausalLM
from entropylong.verification.measuring import Pair, measure

EPSILON = 0.4
# Small, as the naive side reads each cell by a pass of its own.
SETTING = {"root_tokens": (256, 320), "context_tokens": 160, "anchors": 6, "top_k": 2}
SMALL = {"root_tokens": (128, 160), "context_tokens": 32, "anchors": 4, "top_k": 1}


class Naive:
    """One pass a cell over the whole of [start; C; separator; D], full logits, softmax of the one row that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.separator = AutoTokenizer.from_pretrained(folder)("\n\n", add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def entropy(self, root: Root, anchor: int, chunk: np.ndarray) -> float:
        """H at the anchor with the chunk in front."""
        front = [START_ID, *chunk.tolist(), *self.separator]
        logits = self.model(torch.tensor([[*front, *root.ids.tolist()]])).logits[0]
        log_p = torch.log_softmax(logits[len(front) + anchor - 1].float(), dim=-1)
        return float(-(log_p.exp() * log_p).sum())


def ours(model: CausalLM, pairs: list[Pair], separator: list[int]) -> dict[tuple[int, int], float]:
    """H with context, by (anchor, chunk)."""
    entropies = {}
    for pair, reading in measure(model, pairs, separator_ids=separator, batch_tokens=4096):
        entropies |= {(t, pair.tag): float(h) for t, h in zip(pair.positions.tolist(), reading.entropy_with, strict=True)}
    return entropies


def agreement(
    roots: list[Root], fast: list[dict[tuple[int, int], float]], slow: list[dict[tuple[int, int], float]]
) -> dict[str, float]:
    """Keep-sets of both sides under the paper's rule."""
    cells = mismatches = keeps = 0
    margin = error = 0.0
    for root, ours_, naive in zip(roots, fast, slow, strict=True):
        for key, h in ours_.items():
            gains = [(root.entropy[key[0]] - with_) / root.entropy[key[0]] for with_ in (h, naive[key])]
            cells += 1
            keeps += gains[1] > EPSILON
            error = max(error, abs(h - naive[key]))
            if (gains[0] > EPSILON) != (gains[1] > EPSILON):
                mismatches += 1
                margin = max(margin, abs(gains[1] - EPSILON))
    return {"cells": cells, "kept": int(keeps), "agreement": 1 - mismatches / cells, "mismatch_margin": margin, "largest_dH": error}


def main(arguments: Sequence[str] | None = None) -> None:
    """A pair a root at both scopes, then our growth to size 8."""
    parser = argument_parser(__doc__)
    parser.add_argument("--pairs", type=int)
    options = parser.parse_args(arguments)
    count = options.pairs or (1 if options.small else 5)
    folder = model_folder(options.lm)
    model, naive = CausalLM(folder, "float32", START_ID), Naive(folder)
    separator = model.encode("\n\n")
    material = Material(model, model_folder(options.encoder), max(count, 2 * SIZES[-1]), **(SMALL if options.small else SETTING))
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
            entropies: dict[tuple[int, int], float] = {}
            times[scope][0].append(seconds(lambda: entropies.update(ours(model, root.pairs(chunks, scope), separator))))
            if scope == "all":
                fast.append(entropies)

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
        some = [pair for root in material.roots[: 2 * size] for pair in root.pairs(chunks, "all")]
        tokens = sum(len(p.chunk_ids) + int(p.positions.max()) + 1 for p in some)
        spent_ = seconds(lambda some=some: ours(model, some, separator))
        record("verification_growth", [spent_], [], size=size, roots=2 * size, tokens=tokens)


if __name__ == "__main__":
    main()
