"""Recipe permuted: the verified sequences with their links broken, and nothing else."""

from __future__ import annotations

from entropylong.packing.permute import permute
from entropylong.packing.recipes.base import GroupedRecipe
from entropylong.packing.recipes.verified import accepted

RECORD = GroupedRecipe(
    name="permuted",
    text="Ablation: the verified sequences, with contexts swapped between them, so that the links are broken.",
    is_verified=True,
    links=accepted,
    swap=permute,
)
