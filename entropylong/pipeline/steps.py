"""The steps of the pipeline in order. Search and pairs have two steps each, and every other stage has one."""

from __future__ import annotations

from entropylong.core.stage import Stage
from entropylong.core.stage_names import STAGE_NAMES
from entropylong.corpus.stage import CHUNK, INGEST
from entropylong.entropy.stage import ANCHOR, SCORE
from entropylong.errors import UsageError
from entropylong.packing.stage import PACK
from entropylong.retrieval.stage import EMBED, INDEX, QUERIES, SEARCH
from entropylong.verification.pairs_stage import CONTEXTS, PLAN_PAIRS
from entropylong.verification.stage import VERIFY

STEPS: tuple[Stage, ...] = (INGEST, CHUNK, EMBED, INDEX, SCORE, ANCHOR, QUERIES, SEARCH, PLAN_PAIRS, CONTEXTS, VERIFY, PACK)


def steps_of(names: list[str] | tuple[str, ...]) -> list[Stage]:
    """The steps of the named stages in pipeline order; all for no name.

    Raises:
        UsageError: a name is not a stage.
    """
    for name in names:
        if name not in STAGE_NAMES:
            raise UsageError(f"no stage {name!r}; the stages are: {', '.join(STAGE_NAMES)}")
    return [step for step in STEPS if not names or step.name in names]


def step_writing(table: str) -> Stage:
    """The step that writes a table, or writes to it on its way."""
    return next(step for step in STEPS if table in (step.writes, *step.beside))
