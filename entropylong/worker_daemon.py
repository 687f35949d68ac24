"""Spark's Python worker daemon with the heavy imports done once: each worker is a fork that has them already.

Set as `spark.python.daemon.module` in local sessions. Importing torch, transformers and sentence-transformers takes ten
seconds a worker otherwise, and Spark ends idle workers after a minute. Nothing is run here but imports: no thread, no CUDA.

ENTROPYLONG_WORKER_HOOK=module:function in its environment names a hook for all rows that the workers write (`udf.install_hook`);
without it nothing happens. Faults are put in that way.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

HEAVY = (
    "pyarrow",
    "pandas",
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "sentence_transformers",
    "faiss",
)
HOOK = "ENTROPYLONG_WORKER_HOOK"


def forget_archives() -> None:
    """Take pyspark from the environment instead of Spark's own archives of it.

    Before each task a worker has Python read the directory of every archive on its path again: a quarter of a second a task.
    """
    sys.path[:] = [p for p in sys.path if not ("pyspark" in p and p.endswith((".zip", ".jar")))]
    for path in [p for p in sys.path_importer_cache if ".zip" in p or ".jar" in p]:
        del sys.path_importer_cache[path]


def install_named_hook() -> None:
    """Install the hook that the environment names, if it names one."""
    named = os.environ.get(HOOK)
    if not named:
        return
    from entropylong.core.udf import install_hook

    module, _, function = named.partition(":")
    install_hook(getattr(importlib.import_module(module), function))


def main() -> None:
    """Import, then serve as pyspark's own daemon does."""
    forget_archives()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in HEAVY:
        importlib.import_module(name)
    install_named_hook()
    # A worker collects garbage after each task: without this it would walk all of torch every time, for a quarter of a second.
    gc.freeze()
    from pyspark.daemon import manager

    manager()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
