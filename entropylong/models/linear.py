"""Linear layers on the CPU, packed for oneDNN where that is faster than what torch does by itself. Pure torch.

torch multiplies float32 matrices by MKL, which on some processors leaves half of the vector unit idle; oneDNN (built into
torch too) does not. Which one wins is measured once a process on a real layer, so nothing is assumed about the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

# Rows of the trial, and what packing must gain to be worth a second copy of the layout.
TRIAL_ROWS = 512
LEAST_GAIN = 1.1


class PackedLinear(nn.Module):
    """`x W^T + b` with W laid out for oneDNN once. Float32, CPU, inference only.

    Args:
        weight: `[out, in]`.
        bias: `[out]` or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TRIAL_ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in] -> [..., out]`."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result


def pack_linears(module: nn.Module) -> int:
    """Replace the module's float32 CPU linear layers by packed ones, where it is worthwhile; return how many."""
    replaced = 0
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear and is_worthwhile(child.weight):
            setattr(module, name, PackedLinear(child.weight, child.bias))
            replaced += 1
        else:
            replaced += pack_linears(child)
    return replaced


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The fastest `x -> x W^T + b` on this machine for a weight of any dtype; only float32 on the CPU is ever packed."""
    if is_worthwhile(weight):
        return PackedLinear(weight, bias)
    return lambda x: nn.functional.linear(x, weight, bias)


def is_worthwhile(weight: torch.Tensor) -> bool:
    """Whether a packed layer of this kind is faster here, by a trial on a layer of at most 1,536 x 1,536."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return _trial(min(weight.shape[0], 1536), min(weight.shape[1], 1536), torch.get_num_threads())


@cache
def _trial(rows_out: int, rows_in: int, threads: int) -> bool:
    if rows_out * rows_in < 256 * 256:
        return False  # of a layer this small the call is the cost
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TRIAL_ROWS, rows_in, generator=generator)
    weight = torch.randn(rows_out, rows_in, generator=generator)
    with torch.inference_mode():
        packed = PackedLinear(weight, None)
        if not torch.allclose(packed(x), nn.functional.linear(x, weight), rtol=1e-3, atol=1e-2):
            return False
        return LEAST_GAIN * best_seconds(lambda: packed(x)) < best_seconds(lambda: nn.functional.linear(x, weight))


def best_seconds(run: Callable[[], object]) -> float:
    """Seconds of a call, the best of five: the first ones pay for memory, and a neighbour may disturb any."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def product_seconds(width: int, feed_forward: int, rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of this process's fastest product of `rows` tokens `[rows, width]` with a feed-forward matrix."""
    x = torch.randn(rows, width, device=device).to(dtype)
    product = linear(torch.randn(feed_forward, width, device=device).to(dtype), None)

    def run() -> None:
        product(x)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        return best_seconds(run)
