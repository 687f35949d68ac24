"""Where the last token looks: the share of its attention that falls on an answer (EntropyLong paper, Figure 2). Pure torch.

In: token ids with an answer somewhere. Out: shares, mean over heads and layers. The model attends as always (SDPA); beside it
one row of the softmax is computed, the last query's, so that no `[T, T]` matrix exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

from entropylong.errors import EvaluationError
from entropylong.models.attention_mask import causal
from entropylong.models.causal_lm import Ids

NAME = "last_row"

Shares = npt.NDArray[np.float64]
Span = tuple[int, int]
# Token ids -> the last token's attention to each of them, `[tokens]`, which sums to 1.
Attend = Callable[[Sequence[int] | Ids], Shares]


def answer_share(folder: Path, ids: Sequence[int] | Ids, *spans: Span, dtype: str = "float32", device: str | None = None) -> Shares:
    """Share of the last token's attention that falls on each span, mean over heads and layers; one forward pass.

    Args:
        folder: of a causal LM.
        ids: all that the model reads, the start token included if it has one `[tokens]`.
        spans: (start, end) of answers, positions in `ids`.
        dtype: "float32" or "bfloat16".
        device: torch device; None takes the GPU if there is one.

    Returns:
        `[spans]`.

    Raises:
        EvaluationError: a span is not within `ids`, or the model does not attend causally to all tokens.
    """
    _check(spans, len(ids))
    with last_token(folder, dtype, device) as attend:
        return _on(attend(ids), spans)


def shares_by_depth(
    attend: Attend, needle: Sequence[int], filler: Sequence[int], depths: Sequence[float], *, front: Sequence[int],
    question: Sequence[int] = (), answer: Span | None = None,
) -> Shares:  # fmt: skip
    """Share of the last token's attention on an answer, by the depth at which its sentence stands: all are of one length.

    The model reads front, filler up to the depth, needle, the rest of the filler, question.

    Args:
        attend: a model's, from `last_token`; lengths are compared by fillers of several lengths.
        needle, filler, question: token ids; without a question the last token is the filler's or, at depth 1, the needle's own.
        depths: 0 (before the filler) to 1 (after it).
        front: what starts a sequence: `CausalLM.prefix`.
        answer: (start, end) of the answer within the needle; None: all of it.

    Returns:
        `[depths]`.

    Raises:
        EvaluationError: a depth or the answer is out of range.
    """
    start, end = answer or (0, len(needle))
    _check([(start, end)], len(needle))
    shares = []
    for depth in depths:
        if not 0 <= depth <= 1:
            raise EvaluationError(f"depth {depth} is not within 0 .. 1")
        cut = round(depth * len(filler))
        place = len(front) + cut
        row = attend([*front, *filler[:cut], *needle, *filler[cut:], *question])
        shares.append(_on(row, [(place + start, place + end)]))
    return np.concatenate(shares) if shares else np.zeros(0)


@contextmanager
def last_token(folder: Path, dtype: str = "float32", device: str | None = None) -> Iterator[Attend]:
    """A model that tells where the last token of a sequence looks; in memory as long as the context is open.

    Args:
        folder: of a causal LM.
        dtype: "float32" or "bfloat16".
        device: torch device; None takes the GPU if there is one.

    Raises:
        EvaluationError: in use, the model does not attend causally to all tokens by transformers' interface.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    lm = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=NAME, use_safetensors=True, trust_remote_code=False
    )
    body: Any = lm.base_model.eval().to(place)
    layers = int(lm.config.num_hidden_layers)
    del lm  # with its head: logits of all positions would be the largest tensor here

    @torch.inference_mode()
    def attend(ids: Sequence[int] | Ids) -> Shares:
        body(input_ids=torch.tensor(np.asarray(ids, np.int64)[None], device=place), use_cache=False)
        rows = [vars(module).pop(NAME) for module in body.modules() if NAME in vars(module)]
        if len(rows) != layers:
            raise EvaluationError(f"{folder}: attention of {len(rows)} layers of {layers} can be read; choose another model")
        row: Shares = torch.stack(rows).double().mean(0).cpu().numpy()
        if not np.isfinite(row).all():
            raise EvaluationError(f"{folder}: its attention is not finite in {dtype}")
        return row

    try:
        yield attend
    finally:
        body = None  # whoever still holds `attend` must not hold the weights with it
        if place.type == "cuda":
            torch.cuda.empty_cache()


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None,
    scaling: float | None = None, dropout: float = 0.0, **kwargs: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention as transformers calls it, of one sequence; leaves the last query's row, mean over heads, at `module`.

    Args:
        query: `[1, H, T, D]`; key, value: `[1, H_kv, T, D]`; neighbouring query heads share a key head.
    """
    for unknown in ("softcap", "s_aux"):
        if kwargs.get(unknown) is not None:
            raise EvaluationError(f"the model's attention has a {unknown}, which is not read here; choose another model")
    _, heads, _, width = query.shape
    last = query[0, :, -1].reshape(key.shape[1], -1, width).float()  # [H_kv, H / H_kv, D]
    scores = last @ key[0].float().transpose(1, 2) * (width**-0.5 if scaling is None else scaling)
    # Kept at the module, not here: two open models do not meet, and the rows go when their model goes.
    setattr(module, NAME, scores.softmax(-1).sum((0, 1)) / heads)
    return causal(query, key, value, scaling, dropout).transpose(1, 2).contiguous(), None


def _mask(*args: object, kv_length: int, local_size: int | None = None, **kwargs: object) -> None:
    """No mask: causal over all. A layer that sees less of this sequence (sliding window, chunks) is refused."""
    if local_size is not None and local_size < kv_length:
        raise EvaluationError(f"the model has layers that see {local_size} tokens of {kv_length}; choose another model")


def _check(spans: Sequence[Span], length: int) -> None:
    for start, end in spans:
        if not 0 <= start < end <= length:
            raise EvaluationError(f"span {start} .. {end} is not within {length} tokens")


def _on(row: Shares, spans: Sequence[Span]) -> Shares:
    return np.array([row[start:end].sum() for start, end in spans], np.float64)
