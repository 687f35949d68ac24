"""What the benchmarks share: the real models and text of the demo, timing in pairs, the line that a claim prints."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from entropylong.config_files import load_config
from entropylong.corpus.demo import demo_documents
from entropylong.hashing import xxhash64
from entropylong.models.prepare import ModelSpec, prepare

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "runs" / "bench"
DEMO = load_config(ROOT / "conf" / "demo.yaml")
LM, ENCODER, START_ID = DEMO.model.name, DEMO.encoder.name, DEMO.model.document_start_id or 0
SIZES = (1, 2, 4, 8)


def model_folder(name: str) -> Path:
    """The folder of a model, converted at first use. Text on the terminal is the benchmark's own."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return prepare(ModelSpec(name), Path(DEMO.node_cache).expanduser()).path


def documents(module: str = "scipy.signal") -> list[tuple[str, str]]:
    """Real text in an order that no length or alphabet decides."""
    return sorted(demo_documents(module), key=lambda document: xxhash64("bench", document[0]))


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
