"""`verify.order: learned`: the roots it is learned from, and what it learned, pinned in the workspace. Driver side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from entropylong.config import Config
from entropylong.pipeline import step_writing
from entropylong.tables.artifacts import COMPLETE, Artifact, fingerprint
from entropylong.udf import Row
from entropylong.verification.cells import judged_cells
from entropylong.verification.ordering import FEATURES, Floats, Order, features, fit_order
from entropylong.verification.planning import CANDIDATE, Anchor
from entropylong.verification.stage import order_hash

if TYPE_CHECKING:
    from entropylong.results import StepResult
    from entropylong.runner import Runner
    from entropylong.stages import Stage

# Of the roots, a share; at least enough for a fit, at most what is cheap beside the saving.
SHARE, LEAST_ROOTS, MOST_ROOTS = 0.01, 10, 200


def learns(config: Config) -> bool:
    """Whether an order is to be learned: only a budget leaves anything out, so only then it matters."""
    return config.verify.order == "learned" and config.verify.budget_tokens is not None


def sample_threshold(pairs: DataFrame, config: Config) -> int | None:
    """The largest `order_hash` of the roots to learn from; None where no root has a pair."""
    roots = pairs.select("root_id").distinct().select(order_hash(config).alias("h"))
    wanted = min(MOST_ROOTS, max(LEAST_ROOTS, int(SHARE * roots.count())))
    found = roots.orderBy("h").limit(wanted).agg(F.max("h")).collect()[0][0]
    return None if found is None else int(found)


def _artifact(runner: Runner) -> Artifact | None:
    """The order's artifact under this config, without what was learned; None while there are no pairs to learn from."""
    config, pairs = runner.config, runner.fingerprint("pairs")
    if pairs is None:
        return None
    semantic = config.semantic("verify.order", "accept", "query", "seed")
    value = fingerprint("order", 1, semantic, {}, {"pairs": pairs})
    return Artifact(value, "verify", "order", semantic, {}, {"pairs": pairs}, state=COMPLETE)


def known_order(runner: Runner) -> Order | None:
    """What this workspace has learned under this config, or None while it has not."""
    artifact = _artifact(runner)
    known = runner.registry.get(artifact.fingerprint) if artifact else None
    return Order(**{name: tuple(values) for name, values in known.pinned["order"].items()}) if known else None


def learn_first(runner: Runner, step: Stage, run_step: Callable[[], StepResult | None]) -> StepResult | None:
    """Before verification, once a workspace and config: measure some roots whole, and fit the order on them.

    Args:
        runner: of the workspace.
        step: the step that is to run next.
        run_step: runs it.

    Returns:
        What was done of the step.
    """
    if step.writes != "gains" or not learns(runner.config) or runner.counts(step, outcomes=False) is None:
        return None
    threshold = sample_threshold(runner.frames(step)["pairs"], runner.config) if runner.ctx.order is None else None
    if threshold is None:
        return None
    runner.ctx = runner.ctx.with_(order_sample=threshold)
    try:
        done = run_step()
    finally:
        runner.ctx = runner.ctx.with_(order_sample=None)
    runner.ctx = runner.ctx.with_(order=learn_order(runner, threshold))
    return done


def learn_order(runner: Runner, threshold: int) -> Order:
    """Fit on the roots at or below the threshold, all of whose pairs are measured, and pin it."""
    table, accepted = examples(runner, order_hash(runner.config) <= threshold)
    order = fit_order(table, accepted)
    artifact = _artifact(runner)
    if artifact is None:
        raise AssertionError("an order is learned from pairs")
    pinned = {"order": order.stated(), "threshold": threshold, "examples": len(accepted), "accepted": int(accepted.sum())}
    runner.registry.record(replace(artifact, pinned=pinned))
    learned = ", ".join(f"{name} {weight:+.2f}" for name, weight in zip(FEATURES, order.weights, strict=True))
    if not any(order.weights):
        learned = f"too few to learn from, so candidates go by rank ({learned})"
    runner.ctx.say(f"verify: order of visits, from {accepted.sum():,} accepted of {len(accepted):,} candidates: {learned}")
    return order


def examples(runner: Runner, chosen: Column) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """What was measured of some roots: `FEATURES` of each candidate `[examples, 4]`, and whether it was accepted `[examples]`.

    Args:
        runner: in its workspace.
        chosen: of `root_id`: which roots.
    """
    frames = runner.frames(step_writing("gains"))  # of all roots that are measured, as the sample is
    pairs = frames["pairs"].where(chosen)
    # Not the runner's cells, which are kept for the run: most pairs are not measured yet.
    cells = judged_cells({**frames, "pairs": pairs}, runner.config)
    measured = cells.groupBy("root_id", "chunk_id").agg(F.max("accepted").alias("accepted"))
    rows = pairs.where(F.col("kind") == CANDIDATE).join(measured, ["root_id", "chunk_id"])
    rows = rows.select("root_id", "chunk_id", "root_ids", "chunk_ids", "anchors", "accepted")
    window = runner.config.query.window, runner.config.query.side

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_pylist([_example(row, window) for row in batch.to_pylist()], arrow)

    schema = f"root_id STRING, chunk_id BIGINT, {', '.join(f'{name} DOUBLE' for name in FEATURES)}, accepted BOOLEAN"
    arrow = to_arrow_schema(cast(StructType, StructType.fromDDL(schema)))
    found = [row[2:] for row in rows.mapInArrow(run, schema).orderBy("root_id", "chunk_id").collect()]
    return np.array([row[:-1] for row in found], np.float64).reshape(-1, len(FEATURES)), np.array([row[-1] for row in found], bool)


def _example(row: Row, window: tuple[int, str]) -> Row:
    anchors = [Anchor(**anchor) for anchor in row["anchors"]]
    ids = np.array(row["root_ids"], np.int32), np.array(row["chunk_ids"], np.int32)
    values = dict(zip(FEATURES, features(anchors, *ids, window), strict=True))
    return {"root_id": row["root_id"], "chunk_id": row["chunk_id"], **values, "accepted": row["accepted"]}
