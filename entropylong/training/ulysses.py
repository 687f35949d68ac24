"""Ulysses sequence parallelism for any transformers model: each rank holds a part of the sequence, and in attention, by an
all-to-all, some heads of the whole of it (Jacobs et al., DeepSpeed Ulysses, section 3). Pure torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_to_all_single
from transformers import AttentionInterface, AttentionMaskInterface

from entropylong.models.attention_mask import Bounds, causal, segmented, varlen

NAME = "ulysses"


class Ulysses:
    """The ranks that share a sequence. Attention of models that were made with `attn_implementation=NAME` goes through it.

    Args:
        group: ranks of one sequence; None where a sequence is whole on its rank.
        kernel: "sdpa" or "varlen", of attention within segments.

    Attributes:
        bounds: segments of the sequence that goes through the model now, forward and backward; None: attention goes across all.
    """

    def __init__(self, group: dist.ProcessGroup | None, kernel: str = "sdpa") -> None:
        self.group, self.kernel = group, kernel
        self.bounds: Bounds | None = None
        self.size = dist.get_world_size(group) if group is not None else 1
        self.rank = dist.get_rank(group) if group is not None else 0
        AttentionInterface.register(NAME, self.attention)
        # The mask is causal over the whole sequence, which no rank's model sees.
        AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of `[..., T]`."""
        return whole.chunk(self.size, dim=-1)[self.rank]

    def positions(self, length: int, device: torch.device) -> torch.Tensor:
        """Positions of this rank's part, `[1, length / size]`."""
        return self.part(torch.arange(length, device=device))[None]

    def attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None,
        scaling: float | None = None, dropout: float = 0.0, **kwargs: object,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """Causal attention over the whole sequence, or within each of its segments.

        Args:
            module, attention_mask, dropout, kwargs: as transformers passes them; the mask is None.
            query: `[B, H, t, D]`, of this rank's part.
            key, value: `[B, H_kv, t, D]`.
            scaling: of the scores.

        Returns:
            `[B, t, H, D]` of this rank's part.
        """
        heads, kv_heads = query.shape[1], key.shape[1]
        if self.size > 1:
            # Each rank needs the same number of key heads: they are repeated as far as the ranks do not divide them.
            repeat = math.lcm(kv_heads, self.size) // kv_heads
            if heads % (kv_heads * repeat):
                repeat = heads // kv_heads
            key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
            query, key, value = (self._to_heads(states) for states in (query, key, value))
        if self.bounds is None:
            out = causal(query, key, value, scaling, dropout)
        elif self.kernel == "varlen":
            out = varlen(query, key, value, self.bounds, scaling)
        else:
            out = segmented(query, key, value, self.bounds, scaling, dropout)
        if self.size > 1:
            out = self._to_parts(out)
        return out.transpose(1, 2).contiguous(), None

    def _to_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`[B, H, t, D]` of a part -> `[B, H / size, T, D]` of the whole."""
        b, h, t, d = states.shape
        sent = states.reshape(b, self.size, h // self.size, t, d).transpose(0, 1).contiguous()
        got = self._exchange(sent)  # [part, B, H / size, t, D]
        return got.permute(1, 2, 0, 3, 4).reshape(b, h // self.size, self.size * t, d)

    def _to_parts(self, states: torch.Tensor) -> torch.Tensor:
        """`[B, H / size, T, D]` of the whole -> `[B, H, t, D]` of this rank's part."""
        b, h, length, d = states.shape
        sent = states.reshape(b, h, self.size, length // self.size, d).permute(2, 0, 1, 3, 4).contiguous()
        got = self._exchange(sent)  # [heads' rank, B, H / size, t, D]
        return got.transpose(0, 1).reshape(b, self.size * h, length // self.size, d)

    def _exchange(self, sent: torch.Tensor) -> torch.Tensor:
        got: torch.Tensor = all_to_all_single(torch.empty_like(sent), sent, group=self.group)  # type: ignore[no-untyped-call]
        return got
