"""One GPU, a model of a real shape with random weights: scoring and verification against the loops that a user writes first.

Torch, transformers and the pure layers only: `python -m benchmarks.gpu`. No text, so no tokenizer and no real model is needed;
what is measured does not depend on what the weights know.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from benchmarks.timing import record, say, seconds
from entropylong.entropy.engine import entropy_at
from entropylong.entropy.head import entropy_rows
from entropylong.models.causal_lm import CausalLM
from entropylong.models.shape import KNOWN
from entropylong.verification.measuring import Pair, measure

START_ID, SEPARATOR = 0, [1]
# More would not fit beside its float32 logits: 4 x 2,048 x 128,256 takes 4.2 GB, and it holds four such tensors.
NAIVE_BATCH = 4
# Dense bf16 FLOP/s that the maker states.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L4": 121e12, "L40S": 362e12}


def make_model(folder: Path, layers: int | None) -> Path:
    """Llama-3-8B's shape (fewer layers for a trial), random bf16 weights, a tokenizer of two tokens."""
    shape = KNOWN["meta-llama/Meta-Llama-3-8B"]
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward,
        num_hidden_layers=layers or shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192, rope_theta=500000.0, bos_token_id=0, eos_token_id=1, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="</s>"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


class Naive:
    """Hugging Face as it comes: full logits in float32, softmax over all of them."""

    def __init__(self, model: CausalLM) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.bfloat16).eval().to(model.device)
        self.device = model.device

    @torch.no_grad()
    def entropies(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`[batch, time]` entropies of the next token."""
        log_p = torch.log_softmax(self.model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
        return -(log_p.exp() * log_p).sum(-1)

    def score(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """Batches in the order given, padded to the longest, with an attention mask."""
        entropies = []
        for start in range(0, len(sequences), NAIVE_BATCH):
            batch = sequences[start : start + NAIVE_BATCH]
            ids = torch.zeros((len(batch), max(map(len, batch))), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, sequence in enumerate(batch):
                ids[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
                mask[row, : len(sequence)] = 1
            entropy = self.entropies(ids.to(self.device), mask.to(self.device)).cpu().numpy()
            entropies += [row[: len(sequence) - 1] for row, sequence in zip(entropy, batch, strict=True)]
        return entropies

    def at(self, front: list[int], root: np.ndarray, anchor: int) -> float:
        """H at one anchor of a root behind a context."""
        ids = torch.tensor([[*front, *root.tolist()]], device=self.device)
        return float(self.entropies(ids)[0, len(front) + anchor - 1])


def lengths(rng: np.random.Generator, count: int) -> np.ndarray:
    """Of documents: log-normal, cut to 64 to 2,048 tokens."""
    return np.clip(rng.lognormal(6.6, 0.9, count).astype(int), 64, 2048)


def scoring(model: CausalLM, naive: Naive, pairs: int, documents: int, batch_tokens: int) -> None:
    """Every position of every document."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(2, model.vocabulary, n + 1).astype(np.int32) for n in lengths(rng, documents)]
    positions = [np.arange(1, len(sequence), dtype=np.int32) for sequence in ids]
    tokens = sum(map(len, positions))

    def ours() -> list[np.ndarray]:
        return [reading.entropy for reading in entropy_at(model, ids, positions, batch_tokens=batch_tokens)]

    fast, slow = ours(), naive.score(ids)
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        # Alternately first, so that a device that slows down slows both.
        for side in (0, 1) if pair % 2 else (1, 0):
            times[side].append(seconds(lambda side=side: naive.score(ids) if side else ours()))
        say(f"scoring, pair {pair + 1} of {pairs}: ours {times[0][-1]:.2f} s, naive {times[1][-1]:.2f} s")
    rate = tokens / statistics.median(times[0])
    flops = model.shape.flops(tokens, sum(len(p) ** 2 / 2 for p in positions), tokens)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(fast, slow, strict=True))
    peak = next((p for name, p in PEAKS.items() if torch.cuda.is_available() and name in torch.cuda.get_device_name()), None)
    share = round(flops * rate / tokens / peak, 3) if peak else None
    record(
        "gpu_scoring", *times, documents=documents, tokens=tokens, tokens_per_second=round(rate), share_of_peak=share,
        largest_dH_between_bodies=difference,
    )  # fmt: skip


def head(model: CausalLM, naive: Naive) -> None:
    """The head alone, against float64 from the same hidden states on; and the memory it takes beside them."""
    rng = np.random.default_rng(1)
    ids = torch.from_numpy(rng.integers(2, model.vocabulary, (8, 2048)))
    cuda = model.device.type == "cuda"
    with torch.inference_mode():
        hidden = model.hidden(ids).reshape(-1, model.shape.width)
        targets = ids.reshape(-1).to(model.device)
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        spent = [seconds(lambda: entropy_rows(hidden, targets, model.logits, model.vocabulary)) for _ in range(3)]
        scratch = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3) if cuda else None
        rows, few = hidden[:256], targets[:256]
        entropy, nll = entropy_rows(rows, few, model.logits, model.vocabulary)
        exact = torch.log_softmax(rows.double() @ naive.model.get_output_embeddings().weight.double().T, -1)
        error = float((entropy.double() + (exact.exp() * exact).sum(-1)).abs().max())
        error_nll = float((nll.double() + exact.gather(1, few[:, None])[:, 0]).abs().max())
    record("gpu_head", spent, [], rows=len(targets), scratch_gib=scratch, largest_dH=error, largest_dNLL=error_nll)


@dataclass(frozen=True)
class Root:
    """A root of random tokens, its chunks, and which of them each anchor retrieved."""

    ids: np.ndarray
    chunks: list[np.ndarray]
    hits: dict[int, set[int]]

    def pairs(self, scope: str) -> list[Pair]:
        """The unique pairs; the tag is the chunk's number."""
        every = sorted(self.hits)
        positions = {c: [t for t in every if scope == "all" or c in self.hits[t]] for c in range(len(self.chunks))}
        return [Pair(self.ids, self.chunks[c], np.array(where, np.int32), c) for c, where in positions.items() if where]


def make_root(rng: np.random.Generator, vocabulary: int, anchors: int = 8, top_k: int = 4, sharing: float = 1.4) -> Root:
    """About 900 tokens, chunks of 500; `sharing` anchors retrieve a chunk."""
    ids = rng.integers(2, vocabulary, int(rng.integers(700, 1100))).astype(np.int32)
    chunks = [rng.integers(2, vocabulary, 500).astype(np.int32) for _ in range(int(anchors * top_k / sharing))]
    where = np.sort(rng.choice(np.arange(32, len(ids)), anchors, replace=False)).tolist()
    hits = rng.permutation(np.arange(anchors * top_k) % len(chunks)).reshape(anchors, top_k)
    return Root(ids, chunks, {t: set(row.tolist()) for t, row in zip(where, hits, strict=True)})


def ours_at(model: CausalLM, pairs: list[Pair], batch_tokens: int, *, reuse: bool = False) -> dict[tuple[int, int], float]:
    """H with context by (anchor, tag)."""
    entropies = {}
    for pair, reading in measure(model, pairs, separator_ids=SEPARATOR, batch_tokens=batch_tokens, reuse=reuse):
        entropies |= {(int(t), pair.tag): float(h) for t, h in zip(pair.positions, reading.entropy_with, strict=True)}
    return entropies


def verification(model: CausalLM, naive: Naive, roots: int, batch_tokens: int) -> None:
    """Every (anchor, chunk) of a root by a pass of its own against unique pairs, cut and read at the anchors alone."""
    rng = np.random.default_rng(2)
    times: dict[str, tuple[list[float], list[float]]] = {"all": ([], []), "retrieved": ([], [])}
    sharing, error = [], 0.0
    for number in range(roots + 1):  # the first one pays for memory
        root = make_root(rng, model.vocabulary)
        spent: dict[tuple[int, int], float] = {}
        slow: dict[tuple[int, int], float] = {}
        for pair in root.pairs("all"):
            front = [START_ID, *pair.chunk_ids.tolist(), *SEPARATOR]
            for t in pair.positions.tolist():
                cell, run = (t, pair.tag), partial(naive.at, front, root.ids, t)
                spent[cell] = seconds(lambda cell=cell, run=run, slow=slow: slow.__setitem__(cell, run()))
        for scope, (mine, theirs) in times.items():
            work, fast = root.pairs(scope), dict[tuple[int, int], float]()
            took = seconds(lambda work=work, fast=fast: fast.update(ours_at(model, work, batch_tokens)))
            if not number:
                continue
            mine.append(took)
            theirs.append(sum(spent[cell] for cell in fast))
            error = max(error, *(abs(h - slow[cell]) for cell, h in fast.items()))
            sharing += [len(fast) / len(work)] if scope == "retrieved" else []
            say(f"verification, root {number} of {roots}, scope {scope}: ours {took:.2f} s, naive {theirs[-1]:.2f} s")
    for scope, both in times.items():
        m = len(root.hits) if scope == "all" else round(statistics.median(sharing), 3)
        record(f"gpu_verification_{scope}", *both, m=m, largest_dH_between_bodies=error)


def reuse(model: CausalLM, batch_tokens: int, chunk_tokens: int = 500, sharing: int = 16) -> None:
    """One chunk in front of many roots: its keys and values once, against once for each."""
    rng = np.random.default_rng(3)
    chunk = rng.integers(2, model.vocabulary, chunk_tokens).astype(np.int32)
    roots = [rng.integers(2, model.vocabulary, 600).astype(np.int32) for _ in range(sharing)]
    pairs = [Pair(root, chunk, np.array([100, 300, 599], np.int32), number) for number, root in enumerate(roots)]
    entropies: dict[bool, dict[tuple[int, int], float]] = {True: {}, False: {}}
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(4):
        for shared, readings in entropies.items():
            run = partial(ours_at, model, pairs, batch_tokens, reuse=shared)
            times[shared].append(seconds(lambda run=run, readings=readings: readings.update(run())))
    error = max(abs(h - entropies[False][cell]) for cell, h in entropies[True].items())
    record("gpu_prefix_reuse", times[True][1:], times[False][1:], roots_a_chunk=sharing, largest_dH_between_bodies=error)


def main() -> None:
    """All of it on one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=None, help="fewer layers than the model has, for a trial")
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--roots", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=32768)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        say("making the model")
        model = CausalLM(make_model(Path(folder), options.layers), "bfloat16", START_ID)
        gc.collect()
        naive = Naive(model)
        say("model ready")
        head(model, naive)
        scoring(model, naive, options.pairs, options.documents, options.batch_tokens)
        reuse(model, options.batch_tokens)
        verification(model, naive, options.roots, options.batch_tokens)


if __name__ == "__main__":
    main()
