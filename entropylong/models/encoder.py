"""The text encoder of the retrieval: texts in, normalised vectors out. Pure torch and sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from entropylong.errors import ModelError
from entropylong.models.linear import pack_linears
from entropylong.utils.timing import FORWARD


class Encoder:
    """A sentence-transformers model. Vectors are L2-normalised, so the inner product is the cosine.

    Args:
        path: a model folder with safetensors weights.
        device: torch device; None takes the GPU if there is one.

    Raises:
        ModelError: the folder holds a causal LM, or no model at all.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        architectures = json.loads((Path(path) / "config.json").read_text()).get("architectures") or []
        if not (Path(path) / "modules.json").is_file() and any("CausalLM" in name for name in architectures):
            raise ModelError(f"{path}: is {', '.join(architectures)}, a causal LM, not a text encoder; put it under model.name?")
        self._model = SentenceTransformer(
            str(path), device=device, trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
        pack_linears(self._model)

    def encode(self, texts: Sequence[str], prompt: str = "", batch_size: int = 32) -> npt.NDArray[np.float16]:
        """Vectors `[texts, dimension]` in float16, the precision that is stored and searched."""
        # It sorts the texts by length itself before it batches them.
        with FORWARD:
            vectors = self._model.encode(
                [prompt + text for text in texts],
                batch_size=batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return np.asarray(vectors, dtype=np.float16)
