"""What a recipe is: one record each, which packing, figures, cards, `check` and the choice of models read.

They are read where Spark is not installed, too: a recipe's file imports Spark and models where a producer runs, not on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entropylong.config import Config
from entropylong.config.schema import AcceptConfig
from entropylong.packing.sequences import Swap

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from entropylong.core.context import Frames, StageContext

# Of whoever fills the verified arm's tokens.
AS_MANY_TOKENS = "as many tokens as the verified recipe packs from the same corpus"


def no_query_model(config: Config) -> str | None:
    """No model predicts queries."""
    return None


@dataclass(frozen=True, kw_only=True)
class RecipeRecord:
    """The record of a recipe, of either kind.

    Attributes:
        name: the value of `pack.recipe`.
        text: what the card of a data set says of it.
        is_verified: whether its contexts were accepted by verification.
        query_model: the model that predicts a document's query, if one does; it is prepared with the others.
    """

    name: str
    text: str
    is_verified: bool = False
    query_model: Callable[[Config], str | None] = no_query_model

    @property
    def keeps_dependencies(self) -> bool:
        """Whether what was verified stands in its sequences: a link by rank is no dependency."""
        return self.is_verified


@dataclass(frozen=True, kw_only=True)
class GroupedRecipe(RecipeRecord):
    """A recipe whose unit is a root with contexts.

    Attributes:
        links: which chunks become a root's contexts: judged readings -> (root_id, chunk_id, position, gain, excess_gain).
        swap: what changes the packed sequences at the end. It knows the chunks whose uses other roots have, may cut contexts, and
            leaves no dependency.
    """

    links: Callable[[DataFrame, AcceptConfig], DataFrame]
    swap: Swap | None = None

    @property
    def keeps_dependencies(self) -> bool:
        """Whether what was verified stands in its sequences: a swap breaks every link."""
        return self.is_verified and self.swap is None


@dataclass(frozen=True, kw_only=True)
class DocumentRunRecipe(RecipeRecord):
    """A baseline whose unit is a document run: documents, or pieces of them, in a fixed order.

    It fills as many tokens as the verified arm has. What `pack` makes of it depends on the documents, the index and the query
    model too.

    Attributes:
        document_runs: (context, input tables, budget of tokens) -> (document_run STRING, place DOUBLE from 0 to 1,
            pieces ARRAY<STRUCT<kind, root_id, chunk_id, ids>>): pieces in their order, and where the run stands in the order in
            which the budget is spent. `check` asks it again, with the tokens that were packed for a budget.
    """

    document_runs: Callable[[StageContext, Frames, int], DataFrame]


Recipe = GroupedRecipe | DocumentRunRecipe
