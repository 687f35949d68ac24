"""The causal LM: token ids in, entropies out. Pure torch and transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from entropylong.errors import ModelError

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

# Scratch of the head: rows x vocabulary x 4 bytes of float32 logits, and as much again for the softmax.
HEAD_BLOCK_BYTES = 256 << 20


@dataclass(frozen=True)
class Reading:
    """What the model says at the asked positions of one sequence, in nats.

    Attributes:
        entropy: Shannon entropy of the next-token distribution before each position, `[positions]`.
        nll: negative log-likelihood of the token that stands there, `[positions]`.
    """

    entropy: Floats
    nll: Floats


class CausalLM:
    """A causal language model in evaluation mode. The body runs in `dtype`, the head and the logits in float32.

    Args:
        path: a folder with config.json, tokenizer.json and safetensors weights.
        dtype: "float32" or "bfloat16", of the body.
        document_start_id: the token that started documents in pre-training; None takes the tokenizer's BOS.
        device: torch device; None takes the GPU if there is one.

    Attributes:
        prefix: the ids that stand before a document when it is scored: the start token, if the model has one.
        pad_id: what padding holds.

    Raises:
        ModelError: the folder holds no causal LM with safetensors, or its logits are more than head(body(x)).
    """

    def __init__(
        self, path: str | Path, dtype: str = "float32", document_start_id: int | None = None, device: str | None = None
    ) -> None:
        self.path = Path(path)
        config = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        architectures = config.architectures or []
        if not any("CausalLM" in name or "LMHead" in name for name in architectures):
            raise ModelError(
                f"{path}: is {', '.join(architectures) or 'of no stated architecture'}, not a causal LM; put it under encoder.name?"
            )
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = getattr(torch, dtype)
        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=self.dtype, use_safetensors=True, trust_remote_code=False)
        model.eval().to(self.device)
        self.body: Any = model.base_model
        head = model.get_output_embeddings()
        self._weight: torch.Tensor = head.weight.detach().float()
        self._bias: torch.Tensor | None = None if getattr(head, "bias", None) is None else head.bias.detach().float()
        self.vocabulary = int(self._weight.shape[0])
        self.window = int(getattr(config, "max_position_embeddings", 0) or 0)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        start_ids, self.pad_id = pad_and_start(self.tokenizer, document_start_id)
        self.prefix: list[int] = list(start_ids)
        if any(i >= self.vocabulary for i in start_ids):
            raise ModelError(f"model.document_start_id {document_start_id} is outside the vocabulary of {self.vocabulary}")
        self._check_head(model)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens disallowed: "<|endoftext|>" in a document is text."""
        return encode_plain(self.tokenizer, text)

    def _check_head(self, model: Any) -> None:
        """Logit scaling or soft-capping would make our logits wrong: compare them once with the model's own."""
        ids = torch.arange(min(16, self.vocabulary), device=self.device)[None]
        with torch.inference_mode():
            own = model(input_ids=ids, use_cache=False).logits[0].float()
            ours = self._logits(self.body(input_ids=ids, use_cache=False).last_hidden_state[0])
        # A difference by a rounding of the body's dtype is expected; a scale or a cap moves logits by far more.
        if not torch.allclose(own, ours, rtol=2e-2, atol=2e-2 * float(own.abs().max())):
            raise ModelError(
                f"{self.path}: its logits are not head(hidden states) (scaling or soft-capping?); such models are not supported"
            )

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden.float(), self._weight, self._bias)

    def _entropy_rows(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Entropy and NLL of rows of hidden states `[rows, width]`, in blocks (paper, Stage 1)."""
        rows = max(1, HEAD_BLOCK_BYTES // (4 * self.vocabulary))
        entropies, nlls = [], []
        for start in range(0, hidden.shape[0], rows):
            logits = self._logits(hidden[start : start + rows])
            target = logits.gather(1, targets[start : start + rows, None])[:, 0]
            # H = logsumexp(l) - sum softmax(l) l, with l shifted so that no term is large against the sum.
            logits -= logits.max(dim=1, keepdim=True).values
            target_shifted = logits.gather(1, targets[start : start + rows, None])[:, 0]
            log_sum = logits.logsumexp(dim=1)
            probabilities = (logits - log_sum[:, None]).exp_()
            entropies.append(log_sum - (probabilities * logits).sum(dim=1))
            # A NaN or an infinity of the target itself must not be hidden by the shift.
            nlls.append(torch.where(target.isfinite(), log_sum - target_shifted, target))
        return torch.cat(entropies), torch.cat(nlls)

    @torch.inference_mode()
    def read_batch(self, sequences: Sequence[Ids], positions: Sequence[Ids]) -> list[Reading]:
        """One forward pass over right-padded sequences; no mask is needed, as the model is causal."""
        longest = max(len(ids) for ids in sequences)
        ids = torch.zeros((len(sequences), longest), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
        counts = [len(p) for p in positions]
        rows = torch.from_numpy(np.repeat(np.arange(len(sequences)), counts))
        columns = torch.from_numpy(np.concatenate(positions).astype(np.int64))
        targets = ids[rows, columns].to(self.device)
        hidden = self.body(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        entropy, nll = self._entropy_rows(hidden[rows.to(self.device), columns.to(self.device) - 1], targets)
        split = np.cumsum(counts)[:-1]
        return [
            Reading(entropy=h, nll=n)
            for h, n in zip(np.split(entropy.cpu().numpy(), split), np.split(nll.cpu().numpy(), split), strict=True)
        ]


def entropy_at(model: CausalLM, sequences: Sequence[Ids], positions: Sequence[Ids], *, batch_tokens: int = 8192) -> list[Reading]:
    """Entropy before, and NLL of, the tokens at `positions` of each sequence: the one way H is computed.

    Sequences are cut after their last asked position (causal: exact), sorted by length and batched to `batch_tokens`
    padded tokens, so padding costs a few per cent. The result does not depend on the batching beyond rounding.

    Args:
        model: the causal LM.
        sequences: token ids with the start token and any context in front, each `[tokens]`.
        positions: asked positions of each sequence, each in 1 .. len - 1.
        batch_tokens: tokens of a forward batch, padding included; a longer sequence goes alone.

    Returns:
        One `Reading` a sequence, in the order given.
    """
    readings: list[Reading | None] = [None] * len(sequences)
    for batch in length_batches([int(p.max()) + 1 if len(p) else 0 for p in positions], batch_tokens):
        cut = [np.asarray(sequences[i])[: int(positions[i].max()) + 1] for i in batch]
        for i, reading in zip(batch, model.read_batch(cut, [positions[i] for i in batch]), strict=True):
            readings[i] = reading
    empty = np.zeros(0, np.float32)
    return [Reading(empty, empty) if reading is None else reading for reading in readings]


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of the non-empty items in batches of like length, each within `budget` padded tokens (or one item)."""
    order = sorted((i for i, n in enumerate(lengths) if n > 0), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // lengths[order[start]])
        yield order[start : start + size]
        start += size


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids with no special token added or recognised."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def pad_and_start(tokenizer: Any, document_start_id: int | None) -> tuple[tuple[int, ...], int]:
    """The ids that start a document (none if neither given nor declared), and the pad id: the tokenizer's, else EOS, else 0."""
    start = tokenizer.bos_token_id if document_start_id is None else document_start_id
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return (() if start is None else (int(start),)), int(pad)
