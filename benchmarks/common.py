"""What the benchmarks share: the real models and text of the demo, their arguments, a session."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from entropylong.config import Config, load_config
from entropylong.corpus.sources.demo import demo_documents
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.utils.hashing import xxhash64

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent
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


def argument_parser(about: str | None) -> argparse.ArgumentParser:
    """Of a benchmark: its own arguments come on top."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--small", action="store_true", help="the smallest size: its figures say only that the script runs")
    parser.add_argument("--lm", default=LM, help="the causal model")
    parser.add_argument("--encoder", default=ENCODER, help="the encoder")
    return parser


@contextmanager
def spark_for(config: Config) -> Iterator[SparkSession]:
    """The session that is there, or one of its own that ends with it."""
    from pyspark.sql import SparkSession

    from entropylong.spark.session import session

    is_there = SparkSession.getActiveSession() is not None
    spark = session(config)
    yield spark
    if not is_there:
        spark.stop()


def documents(module: str = "scipy.signal") -> list[tuple[str, str]]:
    """Real text in an order that no length or alphabet decides."""
    return sorted(demo_documents(module), key=lambda document: xxhash64("bench", document[0]))
