"""AdamW and the learning rate of the recipe. Pure torch."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

BETAS, EPSILON = (0.9, 0.95), 1e-8


def adamw(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW as published: weight decay on every parameter, norms and embeddings too. `rate` is the highest."""
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=BETAS, eps=EPSILON, weight_decay=weight_decay)


def warmup_steps(steps: int, share: float) -> int:
    """Steps of the warm-up: a share of all, rounded up (200 of 1,000; 13 of 250 at 5 %)."""
    return math.ceil(round(share * steps, 9))


def schedule(optimizer: torch.optim.Optimizer, *, steps: int, warmup: int, floor: float, done: int = 0) -> LRScheduler:
    """The rate of each step: linear from 0 over the warm-up, then a cosine from the optimizer's rate to `floor` times it.

    Args:
        optimizer: with the highest rate.
        steps: of the whole run.
        warmup: steps of the warm-up, which the floor does not lift.
        floor: share of the highest rate at the end.
        done: steps that a checkpoint has behind it.
    """
    # Loads integrations of all kinds; who only plans a run has no use for them.
    from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

    for group in optimizer.param_groups:  # torch asks for it where a schedule begins in the middle
        group["initial_lr"] = group["lr"]
    scheduler: LRScheduler = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, warmup, steps, min_lr_rate=floor, last_epoch=done - 1
    )
    return scheduler
