"""A training run as its ranks get it: one JSON file, the same under any launcher. Pure Python."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from entropylong.errors import ConfigError, TrainingError
from entropylong.models.shape import ModelShape
from entropylong.utils.files import write_whole

FILE, RESULT = "settings.json", "model"


@dataclass(frozen=True)
class TrainSettings:
    """A training run.

    Attributes:
        model, revision, model_hash: the model that it begins with, by name or folder, and what the driver saw of it.
        node_cache: local disk of a machine, where models are prepared.
        feeds, weights: sealed feeds, and the share of rows of each.
        folder: of the run's checkpoints, its steps and its result.
        length: tokens of a sequence; batch: sequences of a step, over all ranks.
        learning_rate, final_rate, warmup: the highest, the share of it at the end, the share of the steps to warm up.
        segmented: attention stays within each segment of a row (documents, conversations); else it goes across.
        anchor_weight: most that a verified anchor's loss weighs; None: all tokens alike.
        chat_template: what the tokenizer of the result gets, if it is to have another one.
        sequence_parallel: ranks that share a sequence.
        logits_block: positions whose logits exist at a time.
        threads: of a process; 0 leaves it to torch.
    """

    model: str
    feeds: tuple[str, ...]
    weights: tuple[float, ...]
    folder: str
    length: int
    batch: int
    steps: int
    learning_rate: float
    final_rate: float
    warmup: float
    weight_decay: float
    clip: float
    rope_base: float | None
    dtype: str
    seed: int
    node_cache: str
    revision: str | None = None
    model_hash: str = ""
    segmented: bool = False
    anchor_weight: float | None = None
    chat_template: str | None = None
    sequence_parallel: int = 1
    attention: str = "sdpa"
    logits_block: int = 2048
    checkpoint_activations: bool = True
    offload_activations: bool = False
    compile: bool = False
    save_every: int = 50
    keep: int = 2
    threads: int = 0

    def write(self) -> Path:
        """Leave it in the run's folder, for the ranks."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        write_whole(path, json.dumps(asdict(self), indent=1))
        return path

    @classmethod
    def read(cls, path: Path) -> TrainSettings:
        """What `write` left.

        Raises:
            TrainingError: it is not there, or not a run's settings.
        """
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            return cls(**record | {"feeds": tuple(record["feeds"]), "weights": tuple(record["weights"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path}: no settings of a training run ({type(error).__name__}); entropylong train writes them"
            ) from None


def check_ranks(ranks: int, sequence_parallel: int, batch: int, length: int, heads: int) -> None:
    """Whether so many processes can share batch, heads and length; told before any of them starts.

    Raises:
        ConfigError: they cannot; the message says which numbers can.
    """
    if heads % sequence_parallel or length % sequence_parallel:
        fitting = [n for n in range(1, heads + 1) if math.gcd(heads, length) % n == 0]
        raise ConfigError(
            f"key 'train.sequence_parallel': {sequence_parallel} ranks must divide the {heads} attention heads and the {length} "
            f"tokens of a sequence; take one of {fitting}"
        )
    if ranks % sequence_parallel:
        raise ConfigError(f"key 'train.sequence_parallel': {sequence_parallel} does not divide {ranks} ranks")
    if batch % (ranks // sequence_parallel):
        fitting = [n * sequence_parallel for n in range(1, batch + 1) if batch % n == 0]
        raise ConfigError(
            f"key 'train.ranks': {ranks} ranks, {sequence_parallel} to a sequence, do not divide a batch of {batch} sequences; "
            f"take one of {fitting}"
        )


def training_flops(shape: ModelShape, tokens: float, keys: float) -> float:
    """FLOPs of a step without recomputation: a forward pass, and twice that backward.

    Args:
        shape: of the model.
        tokens: of the step.
        keys: (query, key) products of its attention: n^2 / 2 of each segment of n tokens.
    """
    return 3 * shape.flops(tokens, keys, tokens)
