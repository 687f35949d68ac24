"""Recipe verified: the paper's method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropylong.config.schema import AcceptConfig
from entropylong.packing.recipes.base import GroupedRecipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LINK = ("root_id", "chunk_id", "position", "gain", "excess_gain")


def accepted(judged: DataFrame, accept: AcceptConfig) -> DataFrame:
    """The accepted readings."""
    return judged.where("accepted").select(*LINK)


RECORD = GroupedRecipe(
    name="verified",
    text="Each root document stands behind contexts that were verified for it: with the context in front, the model is "
    "less uncertain at positions of the root where it was uncertain without.",
    is_verified=True,
    links=accepted,
)
