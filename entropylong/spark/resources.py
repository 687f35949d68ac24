"""Is there room for the models where Spark would put them? One GPU a task, memory for every Python worker. Pure Python."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

from entropylong.errors import SetupError, UsageError

GIB = 1 << 30
# A Python worker's own: torch, transformers, the rows and activations of a batch.
WORKER_BYTES = GIB
GPU = "spark.executor.resource.gpu.amount"
GPU_A_TASK = "spark.task.resource.gpu.amount"
OVERHEAD = "spark.executor.memoryOverhead"


def is_local(conf: Mapping[str, str]) -> bool:
    """Whether driver and executors are one process."""
    return conf.get("spark.master", "").startswith("local") and not is_local_cluster(conf)


def is_local_cluster(conf: Mapping[str, str]) -> bool:
    """Whether executors are processes of this machine."""
    return conf.get("spark.master", "").startswith("local-cluster")


def size_bytes(text: str, unit: str = "b") -> int:
    """Bytes of a size as Spark's settings state it: 8g, 512m, or a number of `unit`.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+)([bkmgt]?)b?", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is not a size like 8g")
    return int(match[1]) << 10 * "bkmgt".index(match[2] or unit)


def machine_memory() -> int:
    """Bytes of this machine."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def executor_memory(conf: Mapping[str, str]) -> int:
    """Bytes: of this machine in local mode, else what spark.executor.memory states."""
    return machine_memory() if is_local(conf) else size_bytes(conf.get("spark.executor.memory", "1g"))


def check_resources(conf: Mapping[str, str], slots: int, model_bytes: int, gpu_bytes: list[int]) -> None:
    """Raise where Spark would load two models onto one GPU, or more models than there is memory for.

    Args:
        conf: the session's settings.
        slots: tasks that run at once, of all executors (local mode).
        model_bytes: the models that each Python worker loads, in the type they run in.
        gpu_bytes: memory of each GPU of this machine (local mode; executors know their own).

    Raises:
        SetupError: one line that names the setting and a value that works.
    """
    if is_local(conf):
        _check_local(slots, model_bytes, gpu_bytes)
        return
    cores, cpus = int(conf.get("spark.executor.cores", "1")), int(conf.get("spark.task.cpus", "1"))
    at_once = cores // cpus
    if gpus := int(conf.get(GPU, "0")):
        a_task = float(conf.get(GPU_A_TASK, "0"))
        if a_task != 1:
            amount = f"{a_task:g}" if GPU_A_TASK in conf else "not set"
            what = "a task would wait for GPUs it never uses" if a_task > 1 else "several tasks would load a model onto one GPU"
            raise SetupError(f"{GPU_A_TASK} is {amount}: {what}; set it to 1")
        at_once = min(at_once, gpus)
    needed = at_once * (model_bytes + WORKER_BYTES)
    if (room := _python_room(conf)) is not None and room < needed:
        raise SetupError(
            f"{at_once} Python workers an executor need about {needed / GIB:.1f} GiB for the models and themselves, {OVERHEAD} "
            f"leaves {room / GIB:.1f}; set it to {math.ceil(needed / GIB)}g, or raise spark.task.cpus for fewer tasks an executor"
        )


def _check_local(slots: int, model_bytes: int, gpu_bytes: list[int]) -> None:
    workers, room, where = slots, machine_memory(), "this machine"
    if gpu_bytes:
        workers, room, where = -(-slots // len(gpu_bytes)), min(gpu_bytes), "a GPU"
    if (needed := workers * (model_bytes + WORKER_BYTES)) <= room:
        return
    problem = (
        f"{workers} Python workers need about {needed / GIB:.1f} GiB for the models and themselves, {where} has {room / GIB:.1f}"
    )
    fit = room // (model_bytes + WORKER_BYTES) * max(1, len(gpu_bytes))
    raise SetupError(f"{problem}; " + (f"set spark.master=local[{fit}]" if fit else "take smaller models, or model.dtype=bfloat16"))


def _python_room(conf: Mapping[str, str]) -> int | None:
    """Bytes that a container leaves to Python, where the cluster manager enforces it (YARN, Kubernetes)."""
    master = conf.get("spark.master", "")
    if not master.startswith(("yarn", "k8s")):
        return None
    if OVERHEAD in conf:
        overhead = size_bytes(conf[OVERHEAD], "m")
    else:
        # Spark's own defaults; of Python programs on Kubernetes the factor is larger.
        factor = float(conf.get(f"{OVERHEAD}Factor", "0.4" if master.startswith("k8s") else "0.1"))
        overhead = max(384 << 20, int(factor * executor_memory(conf)))
    return overhead + size_bytes(conf.get("spark.executor.pyspark.memory", "0"), "m")
