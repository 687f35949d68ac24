"""One model of a kind a Python worker.

It is loaded at first use, kept for the next task and stage, and replaced by another of its kind.
Runs on executors. A specification travels there instead of a model; nothing is pickled but names.
"""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from entropylong.errors import ModelError, SetupError
from entropylong.models.prepare import ModelSpec, prepare


@dataclass(frozen=True)
class WorkerModel:
    """What a worker needs to load a model: its kind, name, the fingerprint that the driver saw, and how to run it."""

    kind: Literal["causal_lm", "encoder", "tokenizer", "query_model"]
    spec: ModelSpec
    fingerprint: str
    node_cache: str
    dtype: str = "float32"
    document_start_id: int | None = None
    threads: int = 1

    def tokenizer(self) -> WorkerModel:
        """The tokenizer of this causal LM alone, without its weights."""
        return replace(self, kind="tokenizer")


# By kind: what was loaded, where, and the thing itself.
_loaded: dict[str, tuple[WorkerModel, str | None, Any]] = {}


def load(model: WorkerModel) -> Any:
    """The model of this worker process: a `CausalLM`, an `Encoder`, a `QueryModel` or a tokenizer.

    Raises:
        ModelError: this node's files are not those that the driver fingerprinted.
        SetupError: Spark names a GPU that this process cannot see.
    """
    import torch

    device = task_device()
    current = _loaded.get(model.kind)
    if current is not None and current[:2] == (model, device):
        return current[2]
    if _loaded.pop(model.kind, None) is not None:
        gc.collect()  # two causal LMs at once would double a worker's memory: the old one goes first
        torch.cuda.empty_cache()
    value = _load(model, device)
    _loaded[model.kind] = (model, device, value)
    return value


def task_device() -> str | None:
    """The GPU that Spark assigned to this task, as torch calls it. Without one: the workers of a machine share its GPUs evenly.

    Returns:
        None where there is no GPU.

    Raises:
        SetupError: that GPU is not among those that this process sees.
    """
    import torch

    gpu_count = torch.cuda.device_count()
    task = sys.modules["pyspark"].TaskContext.get() if "pyspark" in sys.modules else None
    assigned = task.resources().get("gpu") if task is not None else None
    if assigned is None:
        return f"cuda:{os.getpid() % gpu_count}" if gpu_count else None
    number = int(assigned.addresses[0])
    if number >= gpu_count:
        raise SetupError(
            f"Spark assigned GPU {number}, this Python worker sees {gpu_count}; is CUDA_VISIBLE_DEVICES set for executors, "
            "or does spark.executor.resource.gpu.discoveryScript name GPUs that are not there?"
        )
    return f"cuda:{number}"


def gpu_memory() -> list[int]:
    """Bytes of each GPU of this machine."""
    import torch

    return [torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())]


def _load(model: WorkerModel, device: str | None) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(model.threads)
    if device is not None:
        torch.cuda.set_device(device)
    prepared = prepare(model.spec, Path(model.node_cache))
    if prepared.fingerprint != model.fingerprint:
        raise ModelError(f"{model.spec.name}: this node has other files than the driver; remove {prepared.path} here and run again")
    if model.kind == "encoder":
        from entropylong.models.encoder import Encoder

        return Encoder(prepared.path, device)
    if model.kind == "tokenizer":
        return transformers.AutoTokenizer.from_pretrained(prepared.path, trust_remote_code=False)
    if model.kind == "query_model":
        from entropylong.models.query_model import QueryModel

        return QueryModel(prepared.path, device)
    from entropylong.models.causal_lm import CausalLM

    return CausalLM(prepared.path, model.dtype, model.document_start_id, device)
