"""Scoring a document's every position: ours against the padded Hugging Face loop with full logits that a user writes first."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import SIZES, START_ID, argument_parser, documents, model_folder
from benchmarks.timing import record, say, seconds
from entropylong.entropy.scoring import Profile, score_texts
from entropylong.models.causal_lm import CausalLM

# How many documents the naive loop pads to one length.
NAIVE_BATCH = 8


@dataclass(frozen=True)
class Size:
    """Pairs, documents of size 1, the longest of them in tokens, documents of size 1 of the growth."""

    pairs: int
    documents: int
    max_tokens: int
    growth_documents: int


FULL, SMALL = Size(5, 16, 1024, 8), Size(1, 2, 64, 1)


class Naive:
    """Batches in the order given, padded to the longest, with an attention mask; softmax over all logits at once."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.pad_token_id = self.tokenizer.eos_token_id or 0
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.max_tokens = max_tokens

    @torch.no_grad()
    def score(self, texts: list[str]) -> list[np.ndarray]:
        """Entropy of each token of each text."""
        entropies = []
        for start in range(0, len(texts), NAIVE_BATCH):
            encoded = self.tokenizer(
                texts[start : start + NAIVE_BATCH],
                return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=self.max_tokens,
                add_special_tokens=False, split_special_tokens=True,
            )  # fmt: skip
            ids = torch.nn.functional.pad(encoded["input_ids"], (1, 0), value=START_ID)
            mask = torch.nn.functional.pad(encoded["attention_mask"], (1, 0), value=1)
            log_p = torch.log_softmax(self.model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
            entropy = -(log_p.exp() * log_p).sum(-1)
            entropies += [h[: int(n) - 1].numpy() for h, n in zip(entropy, mask.sum(1), strict=True)]
        return entropies


def ours(model: CausalLM, texts: list[str], max_tokens: int) -> list[np.ndarray]:
    """The product's way, in the order of the texts."""
    rule = {"min_tokens": 1, "max_tokens": max_tokens, "long": "truncate", "batch_tokens": 8192}
    profiles = dict(score_texts(model, enumerate(texts), **rule))
    return [p.entropy for i in range(len(texts)) if isinstance(p := profiles[i], Profile)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Pairs at size 1, then our growth to size 8."""
    parser = argument_parser(__doc__)
    parser.add_argument("--pairs", type=int)
    options = parser.parse_args(arguments)
    rule = SMALL if options.small else FULL
    pairs = options.pairs or rule.pairs
    every = [text for _, text in documents()]
    texts = every[: rule.documents]
    folder = model_folder(options.lm)
    model, naive = CausalLM(folder, "float32", START_ID), Naive(folder, rule.max_tokens)
    fast, slow = ours(model, texts[:2], rule.max_tokens), naive.score(texts[:2])  # the first call pays for memory
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        # Alternately first, so that a machine that slows down slows both.
        for side in (0, 1) if pair % 2 else (1, 0):
            if side:
                times[1].append(seconds(lambda: slow.__setitem__(slice(None), naive.score(texts))))
            else:
                times[0].append(seconds(lambda: fast.__setitem__(slice(None), ours(model, texts, rule.max_tokens))))
        say(f"scoring, pair {pair + 1} of {pairs}: ours {times[0][-1]:.1f} s, naive {times[1][-1]:.1f} s")
    error = max(float(np.abs(a - b).max()) for a, b in zip(fast, slow, strict=True))
    tokens = sum(map(len, fast))
    record("scoring", *times, documents=len(texts), tokens=tokens, largest_dH=error)
    for size in SIZES:
        some = every[: size * rule.growth_documents]
        entropies: list[np.ndarray] = []
        spent = seconds(lambda some=some, entropies=entropies: entropies.extend(ours(model, some, rule.max_tokens)))
        record("scoring_growth", [spent], [], size=size, tokens=sum(map(len, entropies)))
    record("scoring_peak_memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20], [], unit="GiB, both sides")


if __name__ == "__main__":
    main()
