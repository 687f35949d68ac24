"""What a run of another size would cost, by what this one has shown: `entropylong plan`, asked many times.

Spark reads what was shown; the rest is arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import pandas as pd

from entropylong.errors import UsageError
from entropylong.notebook.views import OpenWorkspace, View, not_yet
from entropylong.pipeline.metrics.compute import latest_metrics
from entropylong.planning.estimate import Plan, make_plan
from entropylong.planning.measured import measured as plan_keys
from entropylong.planning.tables import plan_report

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState


def measured(state: PipelineState) -> dict[str, float]:
    """The keys of `plan` that a finished run knows better than the defaults do.

    Raises:
        NothingToDoError: nothing is verified.
    """
    figures = latest_metrics(state)
    if not figures.get("roots") or not figures.get("cells_retrieved"):
        raise not_yet("nothing is packed")
    return plan_keys(state, figures)


def plan_of(opened: OpenWorkspace, measurements: Mapping[str, float], *overrides: str) -> Plan:
    """The plan of a run under the workspace's config with other sizes.

    Args:
        opened: whose config it is.
        measurements: as `measured`; overrides come after it.
        overrides: `key.sub=value`; plan.documents must be among them.
    """
    settings = [f"{key}={value}" for key, value in measurements.items()]
    return make_plan(opened.config_with("plan.device=H100", *settings, *overrides), _no_session)


def _no_session() -> NoReturn:
    raise UsageError("give plan.documents=N: a notebook samples no source")


def plan_view(plan: Plan) -> View:
    """What `entropylong plan` prints."""
    return View(plan_report(plan))


def by_stage(plan: Plan, gpu_price: float, core_price: float) -> pd.DataFrame:
    """A row a stage that costs hours: device hours, core hours, and their price.

    Args:
        plan: of a run.
        gpu_price, core_price: of an hour of the device, and of one core.

    Raises:
        UsageError: the device costs nothing, or a core less.
    """
    if not (gpu_price > 0 and core_price >= 0):
        raise UsageError(
            f"prices of {gpu_price} an hour of the device and {core_price} a core: give one above 0, and one of 0 or more"
        )
    rows = [(stage.stage, stage.device_hours or 0.0, stage.core_hours or 0.0) for stage in plan.stages]
    table = pd.DataFrame(rows, columns=["stage", "device hours", "core hours"]).set_index("stage")
    table["price"] = table["device hours"] * gpu_price + table["core hours"] * core_price
    return table[table["price"] > 0]


def by_way(plan: Plan, gpu_price: float, core_price: float) -> dict[str, float]:
    """The price of the whole run, verification done in each way that there is."""
    stages = by_stage(plan, gpu_price, core_price)["price"]
    others = float(stages.sum() - stages.get("verify", 0.0))
    return {way.name: others + plan.hours(way.work.flops) * gpu_price for way in plan.ways}


def over(
    opened: OpenWorkspace,
    measurements: Mapping[str, float],
    overrides: Sequence[str],
    key: str,
    values: Sequence[int],
    prices: tuple[float, float],
) -> pd.DataFrame:
    """The price of the run over another value of one key: a row a value, a column a way to verify.

    Args:
        opened, measurements, overrides: as of `plan_of`.
        key: retrieval.top_k or roots.limit, for example.
        values: that it takes.
        prices: of an hour of the device, and of one core.
    """
    rows = [by_way(plan_of(opened, measurements, *overrides, f"{key}={value}"), *prices) for value in values]
    return pd.DataFrame(rows, index=pd.Index(values, name=key))
