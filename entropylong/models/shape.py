"""What a transformer costs, from its config.json: parameters, and FLOPs of a forward pass. Pure Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entropylong.errors import ModelError

# Families whose feed-forward has two matrices; the others of today have three (a gate).
_UNGATED = {"bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "gpt2", "gpt_neox", "opt", "gptj", "bloom", "phi", "falcon"}
# Other names of the same number.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head"),
    "feed_forward": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
}


_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelShape:
    """A transformer's dimensions.

    Attributes:
        layers, width, heads, kv_heads, head_width, feed_forward, vocabulary: as in its config.json.
        matrices: of its feed-forward: 3 with a gate, else 2.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    matrices: int = 3

    @property
    def body_parameters(self) -> int:
        """Of the layers' matrices, without embeddings and head."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        return self.layers * (attention + self.matrices * self.width * self.feed_forward)

    @property
    def attention_span(self) -> float:
        """Keys that cost a token as much in attention as its whole pass through the matrices."""
        return 2 * self.body_parameters / self._flops_a_key

    @property
    def _flops_a_key(self) -> int:
        return 4 * self.layers * self.heads * self.head_width

    def flops(self, tokens: float, keys: float, head_rows: float = 0.0) -> float:
        """FLOPs of a forward pass.

        Args:
            tokens: tokens that go through the matrices.
            keys: (query, key) products of its attention: n^2 / 2 for a causal sequence of n tokens.
            head_rows: rows that go through the head.
        """
        return 2 * self.body_parameters * tokens + self._flops_a_key * keys + 2 * self.width * self.vocabulary * head_rows

    def weight(self, tokens: float, keys: float) -> float:
        """The same without the head, in tokens of zero attention."""
        return tokens + keys / self.attention_span


def weight_bytes(folder: Path, dtype: str | None = None) -> int:
    """Bytes of a model folder's weights, in the type they are stored in or in another one ("float32", "bfloat16")."""
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    own = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return stored * _ITEM.get(dtype or own, 4) // _ITEM.get(own, 4)


def is_tied(folder: Path) -> bool:
    """Whether a model's head is its embedding, so that it has one of the two."""
    return bool(json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"))


# Published shapes of models that are named in configs but need not be at hand to plan with.
KNOWN: dict[str, ModelShape] = {
    "meta-llama/Meta-Llama-3-8B": ModelShape(32, 4096, 32, 8, 128, 14336, 128256),
    "HuggingFaceTB/SmolLM2-135M": ModelShape(30, 576, 9, 3, 64, 1536, 49152),
    "jinaai/jina-embeddings-v3": ModelShape(24, 1024, 16, 16, 64, 4096, 250002, 2),
    "sentence-transformers/all-MiniLM-L6-v2": ModelShape(6, 384, 12, 12, 32, 1536, 30522, 2),
}


def shape_of(folder: Path) -> ModelShape:
    """The shape that a model folder's config.json states.

    Raises:
        ModelError: a dimension is missing.
    """
    config: Mapping[str, Any] = json.loads((folder / "config.json").read_text())
    if isinstance(text := config.get("text_config"), dict):
        config = text
    dimensions: dict[str, int] = {}
    for name, keys in _NAMES.items():
        value = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        if value is None and name == "feed_forward" and "width" in dimensions:
            value = 4 * dimensions["width"]
        if value is None:
            raise ModelError(f"{folder / 'config.json'}: states no {keys[0]}")
        dimensions[name] = int(value)
    return ModelShape(
        **dimensions,
        kv_heads=int(config.get("num_key_value_heads") or dimensions["heads"]),
        head_width=int(config.get("head_dim") or dimensions["width"] // dimensions["heads"]),
        matrices=2 if config.get("model_type") in _UNGATED else 3,
    )
