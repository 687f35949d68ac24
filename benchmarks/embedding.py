"""Embedding chunks: ours against a padded Hugging Face loop with mean pooling, in the order that the text comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.common import SIZES, argument_parser, documents, model_folder
from benchmarks.timing import record, say, seconds
from entropylong.corpus.chunking import chunk_text
from entropylong.models.encoder import Encoder

BATCH, MAX_TOKENS = 32, 256
# Chunks of size 1 and where they come from: a larger corpus than the demo's, as the growth to size 8 needs 512 chunks.
FULL, SMALL = (64, "scipy"), (2, "scipy.signal")


class Naive:
    """Batches in the order given, padded to their longest text, as the models' cards show it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def encode(self, texts: list[str]) -> np.ndarray:
        """L2-normalised means of the last hidden states."""
        vectors = []
        for start in range(0, len(texts), BATCH):
            batch = self.tokenizer(
                texts[start : start + BATCH], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            vectors.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
        return np.concatenate(vectors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pairs at size 1, then our growth to size 8."""
    parser = argument_parser(__doc__)
    parser.add_argument("--pairs", type=int)
    options = parser.parse_args(arguments)
    pairs, (chunks, module) = options.pairs or (1 if options.small else 5), SMALL if options.small else FULL
    rule = {"unit": "packed_chars", "target_chars": 2048, "max_chars": 8192}
    every = [text for _, whole in documents(module) for text in chunk_text(whole, **rule)]
    texts = every[:chunks]
    folder = model_folder(options.encoder)
    encoder, naive = Encoder(folder), Naive(folder)
    fast, slow = encoder.encode(texts, batch_size=BATCH).astype(np.float32), naive.encode(texts)
    cosine = float((fast * slow).sum(1).min())
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            times[side].append(seconds(lambda side=side: naive.encode(texts) if side else encoder.encode(texts, batch_size=BATCH)))
        say(f"embedding, pair {pair + 1} of {pairs}: ours {times[0][-1]:.2f} s, naive {times[1][-1]:.2f} s")
    record("embedding", *times, chunks=len(texts), least_cosine=cosine)
    for size in SIZES:
        some = every[: size * chunks]
        spent = seconds(lambda some=some: encoder.encode(some, batch_size=BATCH))
        record("embedding_growth", [spent], [], size=size, chunks=len(some))


if __name__ == "__main__":
    main()
