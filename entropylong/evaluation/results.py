"""What an evaluation leaves in its folder: scores.json, and items.json by which models can be paired. Pure Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entropylong.utils.files import write_whole

SCORES, ITEMS = "scores.json", "items.json"
# By question: its score and what that weighs in the benchmark's figure.
Items = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Result:
    """What an evaluation gave.

    Attributes:
        folder: of its prompts, answers and scores.
        facts: what the scores depend on; among them benchmark, model and model_hash (None: nobody told).
        figures: scores by name.
    """

    folder: Path
    facts: dict[str, Any]
    figures: dict[str, float]

    def kept(self, scores: Sequence[Any], items: Items) -> Result:
        """The same, written to scores.json with the scores in detail; and to items.json, for which models can be paired.

        Args:
            scores: in detail.
            items: the score of each single question.
        """
        write_whole(self.folder / ITEMS, json.dumps({key: list(pair) for key, pair in items.items()}))
        whole = {"facts": self.facts, "figures": self.figures, "scores": list(scores)}
        write_whole(self.folder / SCORES, json.dumps(whole, indent=1))
        return self
