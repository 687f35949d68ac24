"""Work cut into tasks of equal cost, not of equal rows: the longest first, each to the task that has least (LPT).

Runs on the driver: what passes through its memory are the costs of groups of keys, a bounded number however many keys there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import mmh3
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StructField, StructType

from entropylong.core.context import StageContext
from entropylong.storage.frames import local_frame

# Tasks of each core at least, as far as there are rows: the last ones to run are then small against the whole.
WAVES = 4
# Groups that keys are put into by their hash: of a few thousand keys each is alone in its group, and of millions each task gets
# dozens of groups, so their costs even out. The driver takes 35 MB for them.
GROUPS = 1 << 16

_PLACED = StructType([StructField("spread_group", LongType()), StructField("spread_task", LongType())])


def spread(ctx: StageContext, rows: DataFrame, key: Sequence[str], cost: Column) -> DataFrame:
    """The rows in partitions of nearly equal cost; rows of one key stay together."""
    group = F.pmod(F.xxhash64(*key), F.lit(GROUPS)).alias("spread_group")
    by_group = rows.groupBy(group).agg(F.sum(cost).cast("double").alias("cost")).collect()
    costs = [row.cost for row in by_group]
    tasks = task_count(sum(costs), len(costs), ctx.cores, ctx.config.run.task_tokens)
    salts = partition_salts(tasks)
    placed = [
        {"spread_group": row.spread_group, "spread_task": salts[task]}
        for row, task in zip(by_group, lpt(costs, tasks), strict=True)
    ]
    where = F.broadcast(local_frame(ctx.spark, placed, _PLACED))
    return (
        rows.withColumn("spread_group", group)
        .join(where, "spread_group", how="inner")
        .repartition(tasks, "spread_task")
        .drop("spread_group", "spread_task")
    )


def task_count(cost: float, groups: int, cores: int, task_tokens: int) -> int:
    """Tasks of at most `task_tokens` each, a whole number of waves over the cores, and no more tasks than groups of keys."""
    waves = max(WAVES, -(-int(cost) // (task_tokens * cores)))
    return max(1, min(groups, waves * cores))


def lpt(costs: Sequence[float], tasks: int) -> list[int]:
    """The task of each item, longest processing time first: the slowest task costs at most 4/3 of the least possible."""
    loads = [(0.0, task) for task in range(tasks)]
    placed = [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, task = heapq.heappop(loads)
        placed[item] = task
        heapq.heappush(loads, (load + costs[item], task))
    return placed


def partition_salts(partitions: int) -> list[int]:
    """For each partition a number that Spark's hash partitioning sends there, as Spark has no way to name a partition."""
    salts: dict[int, int] = {}
    number = 0
    while len(salts) < partitions:
        salts.setdefault(spark_hash(number) % partitions, number)
        number += 1
    return [salts[partition] for partition in range(partitions)]


def spark_hash(value: int) -> int:
    """Spark's `hash` of a BIGINT: Murmur3 of its bytes, seed 42. Signed; Python's % is Spark's pmod."""
    return mmh3.hash(value.to_bytes(8, "little", signed=True), seed=42)
