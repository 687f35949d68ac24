"""Where the model is uncertain, and what each alpha would make of it. Spark reads a sample of roots; the rest is numpy.

Another alpha needs no forward pass: the profiles of the roots are kept, and anchors are found in them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import Column
from pyspark.sql import functions as F

from entropylong.entropy.anchors import AnchorSet, Floats, find_anchors
from entropylong.entropy.word_starts import word_starts
from entropylong.errors import UsageError
from entropylong.models.cache import load
from entropylong.notebook.views import not_yet
from entropylong.packing.stage import PACK
from entropylong.reporting.report.sentences import token_texts
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.config.schema import AnchorsConfig
    from entropylong.pipeline.state import PipelineState

# So many fit into any driver, and say enough about a distribution.
MOST_ROOTS = 500


@dataclass(frozen=True)
class Profile:
    """A root: entropy of each position (nats; NaN where there is none), and where an anchor may stand (None: anywhere)."""

    root_id: str
    ids: list[int]
    entropy: Floats
    eligible: npt.NDArray[np.bool_] | None

    def anchors(self, rule: AnchorsConfig, alpha: float | None = None) -> AnchorSet:
        """Its anchors under the config's rule, or under that rule with another alpha."""
        return find_anchors(
            self.entropy,
            alpha=rule.alpha if alpha is None else alpha,
            min_position=rule.min_position,
            min_gap=rule.min_gap,
            max_per_root=rule.max_per_root,
            eligible=self.eligible,
        )


def sampled(state: PipelineState) -> Column:
    """The order in which a sample takes roots: by hash, so that the same roots are in every picture."""
    return F.xxhash64(F.lit(state.config.seed).cast("bigint"), F.lit("explore"), F.col("root_id"))


def profiles(state: PipelineState, most: int = MOST_ROOTS) -> list[Profile]:
    """Profiles of the chosen roots, at most so many.

    Raises:
        NothingToDoError: none is scored.
    """
    scored = state.frames(PACK)["scored_documents"].orderBy(sampled(state), "root_id").limit(most)
    rows = scored.select("root_id", "input_ids", "entropy").collect()
    if not rows:
        raise not_yet("no root is scored")
    starts = load(state.context.causal_lm.tokenizer()) if state.config.anchors.word_start_only else None
    return [
        Profile(
            row.root_id,
            list(row.input_ids),
            np.frombuffer(row.entropy, "<f4"),
            None if starts is None else word_starts(starts, row.input_ids),
        )
        for row in rows
    ]


def profile(sample: Sequence[Profile], root_id: str | None = None) -> Profile:
    """One of them; of none, that with the highest mean entropy at its ten least certain positions.

    Raises:
        UsageError: it is not among them.
    """
    if root_id is None:
        return max(sample, key=lambda one: float(np.sort(np.nan_to_num(one.entropy))[-10:].mean()))
    by_id = {one.root_id: one for one in sample}
    if root_id not in by_id:
        raise UsageError(f"{root_id}: not among the {len(sample)} sampled roots (for example: {', '.join(list(by_id)[:3])})")
    return by_id[root_id]


def words(state: PipelineState, one: Profile) -> list[str]:
    """The text of each token of a root."""
    return token_texts(load(state.context.causal_lm.tokenizer()), one.ids)


def eligible_entropies(sample: Sequence[Profile], rule: AnchorsConfig) -> Floats:
    """Entropies of all positions that count for mean and std."""
    values: Floats = np.concatenate([one.entropy[rule.min_position :] for one in sample])
    finite: Floats = values[np.isfinite(values)]
    return finite


def by_alpha(sample: Sequence[Profile], rule: AnchorsConfig, alphas: Sequence[float]) -> pd.DataFrame:
    """A row an alpha: tau of the median root (nats), anchors a root, their share of the positions, roots without any."""
    positions = sum(int(np.isfinite(one.entropy[rule.min_position :]).sum()) for one in sample)
    rows = []
    for alpha in alphas:
        sets = [one.anchors(rule, alpha) for one in sample]
        counts = np.array([len(own.positions) for own in sets])
        taus = [own.threshold for own in sets if np.isfinite(own.threshold)]
        rows.append(
            {"alpha": alpha, "tau": float(np.median(taus)) if taus else np.nan, "anchors a root": float(counts.mean()),
             "share of positions": counts.sum() / max(1, positions), "roots without anchor": int((counts == 0).sum())}
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("alpha")


def measured_anchors(state: PipelineState, sample: Sequence[Profile]) -> pd.DataFrame:
    """A row a measured anchor of these roots: how far above its root's mean (in standard deviations), and what was accepted there.

    Raises:
        NothingToDoError: none is verified.
    """
    names = [one.root_id for one in sample]
    is_in = F.col("root_id").isin(names)
    readings = state.readings().where(is_in & (F.col("kind") == ReadingKind.RETRIEVED))
    at = readings.groupBy("root_id", "position").agg(F.first("entropy").alias("entropy"), F.count_if("accepted").alias("accepted"))
    roots = state.frames(PACK)["anchors"].where(is_in).select("root_id", "entropy_mean", "entropy_std")
    height = ((F.col("entropy") - F.col("entropy_mean")) / F.col("entropy_std")).alias("height")
    table = at.join(roots, "root_id", how="inner").select("root_id", "position", "entropy", height, "accepted").toPandas()
    if table.empty:
        raise not_yet("no anchor is verified")
    return table.sort_values(["root_id", "position"], ignore_index=True)


def worth_of_alpha(measured: pd.DataFrame, alphas: Sequence[float], measured_from: float) -> pd.DataFrame:
    """A row an alpha at or above the measured one: what a larger alpha would leave, and what it would cost in dependencies.

    Columns: `anchors` and `anchors left` (number and share), `dependencies kept` (share of all that there are), `answered` (share
    of the anchors that are left at which something was accepted).
    """
    whole = max(1, int(measured["accepted"].sum()))
    rows = []
    for alpha in (value for value in alphas if value >= measured_from):
        left = measured[measured["height"] > alpha] if alpha > measured_from else measured
        rows.append({
            "alpha": alpha,
            "anchors": len(left),
            "anchors left": len(left) / len(measured),
            "dependencies kept": left["accepted"].sum() / whole,
            "answered": float((left["accepted"] > 0).mean()) if len(left) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("alpha")
