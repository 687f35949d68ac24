"""Spark's Python worker daemon with the heavy imports done once: each worker is a fork that has them already.

Set as `spark.python.daemon.module` in local sessions. Importing torch, transformers and sentence-transformers takes ten
seconds a worker otherwise, and Spark ends idle workers after a minute. Nothing is run here but imports: no thread, no CUDA.
"""

from __future__ import annotations

import importlib
import os

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


def main() -> None:
    """Import, then serve as pyspark's own daemon does."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in HEAVY:
        importlib.import_module(name)
    from pyspark.daemon import manager

    manager()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
