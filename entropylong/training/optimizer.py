"""AdamW and the learning rate of the recipe. Pure torch."""

from __future__ import annotations

import math

import torch
from torch import nn

BETAS, EPSILON = (0.9, 0.95), 1e-8


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW as published: weight decay on every parameter, norms and embeddings too. The rate is set at each step."""
    return torch.optim.AdamW(model.parameters(), lr=0.0, betas=BETAS, eps=EPSILON, weight_decay=weight_decay)


def warmup_steps(steps: int, share: float) -> int:
    """Steps of the warm-up: a share of all, rounded up (200 of 1,000; 13 of 250 at 5 %)."""
    return math.ceil(round(share * steps, 9))


def learning_rate(step: int, *, steps: int, peak: float, warmup: int, floor: float) -> float:
    """Rate of a step: linear from 0 over the warm-up, then a cosine from the peak to `floor` times it.

    Args:
        step: from 0.
        steps: of the whole run.
        peak: the highest rate.
        warmup: steps of the warm-up, which the floor does not lift.
        floor: share of the peak at the end.
    """
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
