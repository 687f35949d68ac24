"""Entropy of a large vocabulary without the `[rows, vocabulary]` tensor of all rows. Pure torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Bytes of float32 logits at a time: on a CPU a block stays in its caches through all passes; a GPU wants fewer, larger ones.
BLOCK_BYTES = {"cpu": 24 << 20, "cuda": 256 << 20}


def entropy_rows(
    hidden: torch.Tensor, targets: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor], vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """H and NLL of rows of hidden states (paper, Stage 1): H = log sum exp(l) - sum(softmax(l) l), NLL = log sum exp(l) - l_true.

    Args:
        hidden: last hidden states `[rows, width]`.
        targets: the token that follows each row `[rows]`.
        logits: hidden states `[n, width]` -> fresh float32 logits `[n, vocabulary]`, which are overwritten.
        vocabulary: size of the vocabulary.

    Returns:
        Entropy and negative log-likelihood in nats, float32 `[rows]` each; not finite where the logits are not.
        Scratch is at most twice `BLOCK_BYTES`, whatever the number of rows.
    """
    block = max(1, BLOCK_BYTES.get(hidden.device.type, BLOCK_BYTES["cuda"]) // (4 * vocabulary))
    # Made before the loop: a small result that outlives its block would keep the allocator from giving the next block its place.
    entropies, nlls = (torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device) for _ in range(2))
    for start in range(0, hidden.shape[0], block):
        shifted = logits(hidden[start : start + block])
        # Shifted so that no term is large against the sum. A NaN or an infinity anywhere in the row makes its results one.
        shifted -= shifted.amax(dim=1, keepdim=True)
        target = shifted.gather(1, targets[start : start + block, None])[:, 0]
        weights = shifted.exp()
        total = weights.sum(dim=1)
        weights *= shifted
        log_total = total.log()
        entropies[start : start + block] = log_total - weights.sum(dim=1) / total
        nlls[start : start + block] = log_total - target
        del shifted, weights  # before the next block is made, not after
    return entropies, nlls
