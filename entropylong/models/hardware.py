"""How fast the models run: published peaks of accelerators, a rate that the user states, or a trial on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entropylong.config import Config
from entropylong.models.shape import ModelShape

if TYPE_CHECKING:
    import torch

# Dense peaks in FLOP/s without sparsity, as their makers state them: bfloat16, float32 outside of tensor cores.
PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250e12, 75e12),
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "MI300X": (1307e12, 163e12),
}
HERE = "here"
_TRIAL_ROWS = 1024


@dataclass(frozen=True)
class Rate:
    """What one device forwards.

    Attributes:
        device: its name.
        flops: FLOP a second that a forward pass reaches on it.
        basis: where the number comes from.
    """

    device: str
    flops: float
    basis: str


def rate_of(config: Config, shape: ModelShape) -> Rate:
    """The rate of `plan.device` for the causal LM, by `plan.tokens_per_second` where it is stated."""
    plan = config.plan
    if plan.tokens_per_second is not None:
        flops = plan.tokens_per_second * shape.flops(1, 0)
        basis = f"plan.tokens_per_second: {plan.tokens_per_second:,.0f} tokens/s of {config.model.name} on one {plan.device}"
        return Rate(plan.device, flops, basis)
    if plan.device == HERE:
        import torch

        device = this_device()
        peak = _measured_peak(shape, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        name = "this machine"
        basis = f"plan.device here: {peak / 1e9:,.0f} GFLOP/s measured in matrix products of the model's shape"
    else:
        half, single = PEAKS[plan.device]
        is_single = config.model.dtype == "float32"
        peak, name = (single if is_single else half), plan.device
        basis = f"plan.device {name}: {peak / 1e12:,.0f} TFLOP/s published peak in {'float32' if is_single else 'bfloat16'}"
    return Rate(
        name, peak * plan.utilisation, f"{basis}, of which a forward pass reaches plan.utilisation = {plan.utilisation:.0%}"
    )


def this_device() -> torch.device:
    """The GPU of this machine, or its CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_here(shape: ModelShape, dtype: str, device: torch.device) -> float:
    """FLOP/s that a device of this machine can reach at most: as its maker states it, or measured where that is not known."""
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for gpu in PEAKS:
            if re.search(rf"\b{gpu}\b", name):
                return PEAKS[gpu][1 if dtype == "float32" else 0]
    return _measured_peak(shape, device, getattr(torch, dtype))


def _measured_peak(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of this process's fastest product of `_TRIAL_ROWS` tokens with a feed-forward matrix."""
    from entropylong.models.linear import product_seconds

    seconds = product_seconds(shape.width, shape.feed_forward, _TRIAL_ROWS, device, dtype)
    return 2 * _TRIAL_ROWS * shape.width * shape.feed_forward / seconds
