"""Next-token cross entropy in blocks of positions: no `[tokens, vocabulary]` tensor, forward or backward. Pure torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

BLOCK = 2048
IGNORED = -100


def shifted_labels(input_ids: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Labels of each position: the next token where the mask counts that token, IGNORED elsewhere and at the end.

    Shifted before a sequence is cut among ranks: the label of a part's last token is the first token of the next part.

    Args:
        input_ids: `[..., T]`.
        loss_mask: `[..., T]`, 1 where a token is a target.
    """
    labels = torch.full_like(input_ids, IGNORED)
    labels[..., :-1] = torch.where(loss_mask[..., 1:].bool(), input_ids[..., 1:], IGNORED)
    return labels


def anchor_weights(nll_drop: torch.Tensor, most: float) -> torch.Tensor:
    """Weight of each position's label: min(exp(NLL without context - NLL with it), most) at verified anchors, else 1.

    After LongCE (Fang et al., 2024, equation 5), with what verification measured in place of a second pass.

    Args:
        nll_drop: `[..., T]`, of each token, 0 where it is no verified anchor; shifted here as labels are.
        most: the cap.
    """
    weights = torch.ones_like(nll_drop)
    weights[..., :-1] = torch.where(nll_drop[..., 1:] != 0, nll_drop[..., 1:].exp().clamp(max=most), 1.0)
    return weights


def blockwise_cross_entropy(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    block: int = BLOCK,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of the cross entropy over all positions with a label, in float32.

    Args:
        hidden: last hidden states `[T, width]`.
        labels: `[T]`, already shifted; IGNORED where a position does not count.
        head: hidden states `[n, width]` -> logits `[n, vocabulary]`.
        block: positions whose logits exist at a time; computed once more in the backward pass.
        weights: `[T]` of each position; None: 1.

    Returns:
        A scalar with gradient to `hidden` and to the head's weights, also where no position counts.
    """

    def of_block(states: torch.Tensor, targets: torch.Tensor, weighed: torch.Tensor | None) -> torch.Tensor:
        if weighed is None:
            return F.cross_entropy(head(states).float(), targets, ignore_index=IGNORED, reduction="sum")
        return (F.cross_entropy(head(states).float(), targets, ignore_index=IGNORED, reduction="none") * weighed).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(labels), block):
        weighed = None if weights is None else weights[start : start + block]
        states, targets = hidden[start : start + block], labels[start : start + block]
        total = total + checkpoint(of_block, states, targets, weighed, use_reentrant=False)
    return total
