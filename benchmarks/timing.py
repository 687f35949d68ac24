"""Timing, and the line that a claim prints. Torch and the standard library only, so that it runs wherever a GPU is."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent.parent / "runs" / "bench"


def machine() -> str:
    """The device that the figures were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    unit = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, {unit}, torch {torch.__version__}"


def seconds(run: Callable[[], Any]) -> float:
    """Wall seconds of one call, the device's queue included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def record(
    name: str, ours: Sequence[float], naive: Sequence[float], *, unit: str = "s", size: int = 1, **more: Any
) -> dict[str, Any]:
    """Print and keep one claim: medians of both sides and the median ratio of the pairs (naive / ours)."""
    ratios = [n / o for o, n in zip(ours, naive, strict=True)] if naive else []
    line = {
        "name": name,
        "ours": round(statistics.median(ours), 4),
        "naive": round(statistics.median(naive), 4) if naive else None,
        "ratio": round(statistics.median(ratios), 3) if ratios else None,
        "unit": unit,
        "size": size,
        "pairs": len(ratios),
        "machine": machine(),
        **more,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "results.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
    return line


def say(text: str) -> None:
    """Progress, beside the JSON lines."""
    print(f"  {text}", file=sys.stderr, flush=True)
