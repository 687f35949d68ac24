"""The plan as tables for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entropylong.planning.estimate import Plan, StagePlan

# The line under the stages.
ALL = "all"

_UNITS = ("", " K", " M", " G", " T", " P", " E", " Z", " Y")


def amount(value: float | None, unit: str = "") -> str:
    """Three significant digits with a decimal prefix; nothing for None."""
    if value is None:
        return ""
    step = 0
    while abs(value) >= 999.5 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    digits = f"{value:.3g}" if value >= 0.01 or value == 0 else f"{value:.1e}"
    return f"{digits}{_UNITS[step]}{unit}" if step else f"{digits} {unit}".rstrip()


def count(value: float | None) -> str:
    """A whole number with separators below a million, else three digits with a prefix."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value < 1e6 else amount(value)


def hours(value: float | None) -> str:
    """Hours, as precise as they are worth."""
    if value is None:
        return ""
    if value >= 1e6:
        return amount(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def plan_report(plan: Plan) -> RenderableType:
    """All of a plan: sizes, stages, ways to verify, assumptions, warnings."""
    parts: list[RenderableType] = [_sizes_line(plan), _stages_table(plan), _bytes_table(plan), _ways_table(plan)]
    parts += [Text(f"  {way.name}: {way.about}", style="dim") for way in plan.ways]
    parts.append(Text("Reckoned with", style="bold"))
    parts += [Text(f"  {line}", style="dim") for line in plan.assumptions]
    parts += [Text(f"Mind: {line}", style="yellow") for line in plan.warnings]
    return Group(*parts)


def _sizes_line(plan: Plan) -> Text:
    s = plan.sizes
    return Text(
        "Estimates, before anything is read; small corpora differ most: "
        f"{count(s.documents)} documents of {amount(s.tokens)} tokens, {count(s.chunks)} chunks of {s.chunk_tokens:,.0f} tokens; "
        f"{count(s.roots)} roots of {s.root_tokens:,.0f} tokens with {s.anchors:,.1f} anchors each: {count(s.queries)} queries, "
        f"{count(s.cells)} (anchor, candidate), {count(s.pairs)} pairs to read and {count(s.controls)} of controls, "
        f"{s.accepted:,.1f} accepted a root"
    )


def _table(title: str) -> Table:
    # Narrow enough for a terminal of 80 columns.
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def _stages_table(plan: Plan) -> Table:
    table = _table("Stages: work")
    table.add_column("stage", no_wrap=True)
    device = "\n".join([*plan.rate.device.split(), "hours"])
    for column in ("rows", "tokens", "FLOP", device, "core\nhours", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in [*plan.stages, _total(plan.stages)]:
        _add(table, plan, stage, [
            "" if stage.stage == ALL else count(stage.rows), amount(stage.tokens), amount(stage.flops), hours(stage.device_hours),
            hours(stage.core_hours), amount(stage.memory, "B"),
        ])  # fmt: skip
    return table


def _bytes_table(plan: Plan) -> Table:
    table = _table("Stages: bytes")
    table.add_column("stage", no_wrap=True)
    for column in ("commits", "read", "shuffle", "storage"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in [*plan.stages, _total(plan.stages)]:
        sizes = (stage.read, stage.shuffle or None, stage.storage)
        _add(table, plan, stage, [count(stage.commits), *(amount(size, "B") for size in sizes)])
    return table


def _add(table: Table, plan: Plan, stage: StagePlan, cells: list[str]) -> None:
    style = "bold" if stage.stage == ALL else ""
    table.add_row(stage.stage, *cells, style=style, end_section=stage is plan.stages[-1])


def _total(stages: list[StagePlan]) -> StagePlan:
    def over(name: str) -> float:
        return sum(getattr(stage, name) or 0.0 for stage in stages)

    return StagePlan(
        "all",
        0,
        over("tokens"),
        over("flops"),
        over("device_hours"),
        over("core_hours"),
        None,
        over("read"),
        over("commits"),
        over("shuffle"),
        over("storage"),
    )


def _ways_table(plan: Plan) -> Table:
    table = _table("Verification, done in each way (* as configured)")
    table.add_column("way")
    for column in ("passes", "tokens", "FLOP", f"{plan.rate.device}\nhours", "cheaper"):
        table.add_column(column, justify="right", no_wrap=True)
    for way in plan.ways:
        work = way.work
        table.add_row(
            f"{way.name}{' *' if way.configured else ''}", count(work.passes), amount(work.tokens), amount(work.flops),
            hours(plan.hours(work.flops)), f"{plan.ways[0].work.flops / work.flops:,.1f} x",
        )  # fmt: skip
    return table
