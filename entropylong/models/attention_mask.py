"""Causal attention over a whole sequence, across all of it or within each of its segments. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from entropylong.errors import ConfigError

Bounds = Sequence[tuple[int, int]]


def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, dropout: float) -> torch.Tensor:
    """Each position attends to itself and all before it.

    Args:
        query: `[B, H, T, D]`; key, value: `[B, H_kv, T, D]`.
        scale: of the scores; None: 1 / sqrt(D).
    """
    return F.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


def segmented(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, scale: float | None, dropout: float
) -> torch.Tensor:
    """Causal attention within each segment: one call a segment, so that no `[T, T]` mask exists.

    Args:
        query, key, value, scale, dropout: as in `causal`.
        bounds: (start, end) of each segment; they cover the sequence in order.
    """
    parts = [causal(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], scale, dropout) for a, b in bounds]
    return torch.cat(parts, dim=2)


def varlen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, scale: float | None) -> torch.Tensor:
    """The same as `segmented` in one kernel, torch.nn.attention.varlen; for one sequence, on CUDA in 16-bit types."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *(end for _, end in bounds)], dtype=torch.int32, device=query.device)
    longest = max(end - start for start, end in bounds)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out: torch.Tensor = varlen_attn(  # type: ignore[assignment]
        q, k, v, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(0, 1)[None]


def check_kernel(kernel: str, device: torch.device, dtype: str) -> None:
    """Raise ConfigError where the configured kernel does not run."""
    if kernel == "varlen" and (device.type != "cuda" or dtype == "float32"):
        raise ConfigError(f"key 'train.attention': varlen needs CUDA and bfloat16, this is {device.type} and {dtype}; take sdpa")
