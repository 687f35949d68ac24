"""`entropy_at`: the ONE way H is computed, for Stages 1 and 3. Pure torch.

In: token ids and the positions to read. Out: entropy and NLL there. Sequences are cut after their last asked position
(causal: exact), sorted by length inside a bounded buffer, and batched by a budget of tokens, so little is padding. A batch
that does not fit the device's memory is halved, and so is the budget from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from entropylong.entropy.head import entropy_rows
from entropylong.errors import ModelError
from entropylong.models.causal_lm import CausalLM, Ids, KeyValues
from entropylong.utils.isolation import reason_of
from entropylong.utils.timing import FORWARD

Floats = npt.NDArray[np.float32]

# Batches that a buffer holds before it is sorted by length: padding then costs a few per cent.
BUFFER_BATCHES = 16


@dataclass(frozen=True)
class Reading:
    """What the model says at the asked positions of one sequence, in nats.

    Attributes:
        entropy: Shannon entropy of the next-token distribution before each position, `[positions]`.
        nll: negative log-likelihood of the token that stands there, `[positions]`.
        failure: why the model gave no number; both are NaN then.
    """

    entropy: Floats
    nll: Floats
    failure: str = ""


NOTHING_READ = Reading(np.zeros(0, np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Request:
    """A sequence to read.

    Attributes:
        ids: token ids with the start token and any context in front `[tokens]`.
        positions: asked positions, each in 1 .. len - 1.
        tag: whatever the caller wants back with the reading.
    """

    ids: Ids
    positions: Ids
    tag: Any = None

    @property
    def length(self) -> int:
        """Tokens that must be forwarded: none after the last asked position, which itself is only a target."""
        return int(self.positions.max()) + 1 if len(self.positions) else 0


def entropy_at(model: CausalLM, sequences: Sequence[Ids], positions: Sequence[Ids], *, batch_tokens: int = 8192) -> list[Reading]:
    """Entropy before, and NLL of, the tokens at `positions` of each sequence.

    The result does not depend on the batching beyond rounding.

    Args:
        model: the causal LM.
        sequences: token ids with the start token and any context in front, each `[tokens]`.
        positions: asked positions of each sequence, each in 1 .. len - 1.
        batch_tokens: tokens of a forward batch, padding included; a longer sequence goes alone.

    Returns:
        One `Reading` a sequence, in the order given.

    Raises:
        ModelError: one sequence alone does not fit the device's memory.
    """
    requests = [Request(ids, places, i) for i, (ids, places) in enumerate(zip(sequences, positions, strict=True))]
    readings = [NOTHING_READ] * len(requests)
    for request, reading in read_stream(model, requests, batch_tokens=batch_tokens):
        readings[request.tag] = reading
    return readings


def read_stream(model: CausalLM, requests: Iterable[Request], *, batch_tokens: int) -> Iterator[tuple[Request, Reading]]:
    """Each request with its reading, in an order of its own; holds `BUFFER_BATCHES` batches of requests at most.

    Raises:
        ModelError: one sequence alone does not fit the device's memory.
    """
    for buffer in _buffers(requests, BUFFER_BATCHES * batch_tokens):
        yield from _read_buffer(model, buffer, batch_tokens)


def read_after(model: CausalLM, front: Ids, requests: Sequence[Request], *, batch_tokens: int) -> Iterator[tuple[Request, Reading]]:
    """Each request with its reading when the tokens `front` stand before it; they are forwarded once.

    Positions do not count the tokens in front. A batch is `batch_tokens` with them, as their keys and values take room in it.

    Raises:
        ModelError: one sequence alone does not fit the device's memory.
    """
    with FORWARD:
        after = model.keys_values(front)
    yield from _read_buffer(model, requests, batch_tokens, after, len(front))


def _read_buffer(
    model: CausalLM, buffer: Sequence[Request], batch_tokens: int, after: KeyValues | None = None, front: int = 0
) -> Iterator[tuple[Request, Reading]]:
    waiting = [buffer[i] for i in by_length([request.length for request in buffer])]
    yield from ((request, NOTHING_READ) for request in buffer if not request.length)
    while waiting:
        budget = min(batch_tokens, model.token_limit)
        size = batch_size([front + request.length for request in waiting], budget)
        yield from read_batch(model, waiting[:size], after)
        waiting = waiting[size:]


def _buffers(requests: Iterable[Request], tokens: int) -> Iterator[list[Request]]:
    buffer: list[Request] = []
    held = 0
    for request in requests:
        buffer.append(request)
        held += max(1, request.length)
        if held >= tokens:
            yield buffer
            buffer, held = [], 0
    if buffer:
        yield buffer


def by_length(lengths: Sequence[int]) -> list[int]:
    """Indices of the non-empty items, the longest first."""
    return sorted((i for i, n in enumerate(lengths) if n > 0), key=lambda i: (-lengths[i], i))


def batch_size(descending: Sequence[int], budget: int) -> int:
    """How many of the items, the longest first, go into a batch of `budget` padded tokens: one at least."""
    return min(len(descending), max(1, budget // descending[0]))


def read_batch(model: CausalLM, batch: Sequence[Request], after: KeyValues | None = None) -> list[tuple[Request, Reading]]:
    """One forward pass over a batch, or several over parts of it: where the device's memory asks for it, and to find the one
    sequence on which the model fails.

    Args:
        model: the causal LM; its `token_limit` is lowered where memory runs out.
        batch: requests with at least one position each.
        after: keys and values of tokens that stand in front of every sequence; positions do not count them.
    """
    tokens = len(batch) * max(request.length for request in batch)
    try:
        with FORWARD:
            return list(zip(batch, _forward(model, batch, after), strict=True))
    except Exception as error:  # a model may raise anything
        no_memory, why = _is_out_of_memory(error), reason_of(error)
    # Outside of the except clause, which would keep the tensors of the failed pass alive.
    if model.device.type == "cuda" and no_memory:
        torch.cuda.empty_cache()
    if len(batch) == 1 and not no_memory:
        _require_sound(model, why)
        nothing = np.full(len(batch[0].positions), np.nan, np.float32)
        return [(batch[0], Reading(nothing, nothing, why))]
    if len(batch) == 1:
        raise ModelError(
            f"a sequence of {tokens} tokens alone does not fit the memory of {model.device}; "
            "lower roots.max_tokens or contexts.max_tokens, or take a larger device"
        )
    if no_memory:
        model.token_limit = max(1, tokens // 2)
    middle = len(batch) // 2
    return read_batch(model, batch[:middle], after) + read_batch(model, batch[middle:], after)


def _require_sound(model: CausalLM, why: str) -> None:
    """A sequence is to blame only where another one goes through."""
    try:
        _forward(model, [Request(np.zeros(2, np.int32), np.ones(1, np.int32))], None)
    except Exception as error:
        raise ModelError(f"the model fails on any input ({reason_of(error)}); first seen as: {why}") from None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "not enough memory" in str(error)  # what torch's CPU allocator says


@torch.inference_mode()
def _forward(model: CausalLM, batch: Sequence[Request], after: KeyValues | None) -> list[Reading]:
    ids = torch.zeros((len(batch), max(request.length for request in batch)), dtype=torch.long)
    for row, request in enumerate(batch):
        ids[row, : request.length] = torch.from_numpy(request.ids[: request.length].astype(np.int64))
    counts = [len(request.positions) for request in batch]
    rows = torch.from_numpy(np.repeat(np.arange(len(batch)), counts))
    columns = torch.from_numpy(np.concatenate([request.positions for request in batch]).astype(np.int64))
    targets = ids[rows, columns].to(model.device)
    # The last asked position is only a target: the pass ends before it.
    hidden = model.hidden(ids[:, : int(columns.max())], after)
    states = hidden[rows.to(model.device), columns.to(model.device) - 1]
    del hidden
    entropy, nll = entropy_rows(states, targets, model.logits, model.vocabulary)
    split = np.cumsum(counts)[:-1]
    return [
        Reading(entropy=h, nll=n)
        for h, n in zip(np.split(entropy.cpu().numpy(), split), np.split(nll.cpu().numpy(), split), strict=True)
    ]
