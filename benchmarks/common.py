"""What the benchmarks share: the real models and text of the demo."""

from __future__ import annotations

import os
from pathlib import Path

from entropylong.config import load_config
from entropylong.corpus.sources.demo import demo_documents
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.utils.hashing import xxhash64

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


def documents(module: str = "scipy.signal") -> list[tuple[str, str]]:
    """Real text in an order that no length or alphabet decides."""
    return sorted(demo_documents(module), key=lambda document: xxhash64("bench", document[0]))
