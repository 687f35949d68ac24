"""Scoring a document's every position: ours against the padded Hugging Face loop with full logits that a user writes first."""

from __future__ import annotations

import argparse
import resource

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import LM, SIZES, START_ID, documents, model_folder
from benchmarks.timing import record, say, seconds
from entropylong.entropy.scoring import Profile, score_texts
from entropylong.models.causal_lm import CausalLM

# Documents of size 1, the longest of them in tokens, and how many the naive loop pads to one length.
DOCUMENTS, MAX_TOKENS, NAIVE_BATCH = 16, 1024, 8
GROWTH_DOCUMENTS = 8


class Naive:
    """Batches in the order given, padded to the longest, with an attention mask; softmax over all logits at once."""

    def __init__(self, dtype: torch.dtype) -> None:
        folder = model_folder(LM)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.pad_token_id = self.tokenizer.eos_token_id
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    @torch.no_grad()
    def score(self, texts: list[str]) -> list[np.ndarray]:
        """Entropy of each token of each text."""
        found = []
        for start in range(0, len(texts), NAIVE_BATCH):
            encoded = self.tokenizer(
                texts[start : start + NAIVE_BATCH],
                return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=MAX_TOKENS,
                add_special_tokens=False, split_special_tokens=True,
            )  # fmt: skip
            ids = torch.nn.functional.pad(encoded["input_ids"], (1, 0), value=START_ID)
            mask = torch.nn.functional.pad(encoded["attention_mask"], (1, 0), value=1)
            log_p = torch.log_softmax(self.model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
            entropy = -(log_p.exp() * log_p).sum(-1)
            found += [h[: int(n) - 1].numpy() for h, n in zip(entropy, mask.sum(1), strict=True)]
        return found


def ours(model: CausalLM, texts: list[str]) -> list[np.ndarray]:
    """The product's way, in the order of the texts."""
    rule = {"min_tokens": 1, "max_tokens": MAX_TOKENS, "long": "truncate", "batch_tokens": 8192}
    profiles = dict(score_texts(model, enumerate(texts), **rule))
    return [p.entropy for i in range(len(texts)) if isinstance(p := profiles[i], Profile)]


def main() -> None:
    """Pairs at size 1, then our growth to size 8."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    every = [text for _, text in documents()]
    texts = every[:DOCUMENTS]
    model, naive = CausalLM(model_folder(LM), "float32", START_ID), Naive(torch.float32)
    fast, slow = ours(model, texts[:2]), naive.score(texts[:2])  # the first call pays for memory
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        # Alternately first, so that a machine that slows down slows both.
        for side in (0, 1) if pair % 2 else (1, 0):
            if side:
                times[1].append(seconds(lambda: slow.__setitem__(slice(None), naive.score(texts))))
            else:
                times[0].append(seconds(lambda: fast.__setitem__(slice(None), ours(model, texts))))
        say(f"scoring, pair {pair + 1} of {pairs}: ours {times[0][-1]:.1f} s, naive {times[1][-1]:.1f} s")
    error = max(float(np.abs(a - b).max()) for a, b in zip(fast, slow, strict=True))
    tokens = sum(map(len, fast))
    record("scoring", *times, documents=DOCUMENTS, tokens=tokens, largest_dH=error)
    for size in SIZES:
        some = every[: size * GROWTH_DOCUMENTS]
        found: list[np.ndarray] = []
        spent = seconds(lambda some=some, found=found: found.extend(ours(model, some)))
        record("scoring_growth", [spent], [], size=size, tokens=sum(map(len, found)))
    record("scoring_peak_memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20], [], unit="GiB, both sides")


if __name__ == "__main__":
    main()
