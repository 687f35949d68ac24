"""Decoder layers compiled for a GPU: norms, rotations and gates fused between the matrix products. Pure torch.

On an H100 a Llama-3-8B body in bfloat16 goes from 49 % to 63 % of the card's peak by it (benchmarks/gpu.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import nn

# Of the hidden states' norm: a fused layer rounds less often, so it differs from the eager one by roundings of bfloat16.
TOLERANCE = 0.1


def compile_layers(body: nn.Module, hidden: Callable[[], torch.Tensor], backend: str = "inductor") -> bool:
    """Compile the body's layers, for any batch size and length; once a process, in about ten seconds.

    Left as it was where the machine cannot compile (no C compiler, an architecture that cannot be traced): slower, not wrong.

    Args:
        body: the model without its head.
        hidden: a trial pass through the body.
        backend: of torch.compile.

    Returns:
        Whether the layers are compiled now.
    """
    stacks = [module for module in body.modules() if isinstance(module, nn.ModuleList)]
    if not stacks:
        return False
    layers = max(stacks, key=len)
    plain = hidden()
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    try:
        difference = float((hidden() - plain).float().norm() / plain.float().norm())
        agrees, reason = difference <= TOLERANCE, f"compiled, their results differ by {difference:.0%}"
    except Exception as error:  # a compiler may raise anything; the layers run without it
        agrees, reason = False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if not agrees:
        for layer in layers:
            layer._compiled_call_impl = None
        warnings.warn(f"the model's layers run uncompiled on this machine, a third slower: {reason}", stacklevel=2)
    return agrees


def eager() -> AbstractContextManager[object]:
    """Inside this context compiled layers run as they were written: what a cache of keys and values needs."""
    return cast(AbstractContextManager[object], torch.compiler.set_stance("force_eager"))
