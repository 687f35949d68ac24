"""`model.dtype: auto`: the body's dtype that this machine runs fastest. Measured once a machine. Pure torch."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from entropylong.models.linear import product_seconds
from entropylong.models.prepare import remembered
from entropylong.models.shape import ModelShape
from entropylong.utils.hashing import digest

ROWS = 1024
# bfloat16 moves single entropies by up to 0.7 nats: it must be worth that.
LEAST_GAIN = 1.2


def fastest_dtype(shape: ModelShape, node_cache: Path, device: str | None = None) -> str:
    """ "float32" or "bfloat16", by a trial on a feed-forward matrix of the model's shape; remembered in the node's cache."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def measure() -> str:
        is_faster = LEAST_GAIN * _seconds(shape, where, torch.bfloat16) < _seconds(shape, where, torch.float32)
        return "bfloat16" if is_faster else "float32"

    key = digest([_machine(where), torch.__version__, shape.width, shape.feed_forward])
    return remembered(node_cache / "dtype" / key, measure)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    # The first processor's model and features: machines that share a home directory may differ in them.
    return digest([line for line in lines if line.startswith(("model name", "flags"))][:2] or platform.processor())


def _seconds(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> float:
    return product_seconds(shape.width, shape.feed_forward, ROWS, device, dtype)
