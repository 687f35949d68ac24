"""What each stage would read, write and need: printed from the declarations, without Spark."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.table import Table

from entropylong.config import Config
from entropylong.pipeline import steps_of


def describe_table(config: Config, names: Sequence[str]) -> Table:
    """One row a step: stage, purpose, reads, writes and key, models, and the semantic keys with their values."""
    table = Table(title="Stages in order", show_lines=True)
    for column in ("stage", "does", "reads -> writes (key)", "needs", "depends on"):
        table.add_column(column, overflow="fold")
    models = {"model": config.model.name, "encoder": config.encoder.name}
    for step in steps_of(list(names)):
        flow = f"{', '.join(step.reads) or 'sources'} -> {step.writes} ({', '.join(step.key)})"
        values = config.semantic(*step.config)
        depends = "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
        needs = "\n".join([step.kind.value, *(f"{name}: {models[name]}" for name in step.models)])
        table.add_row(step.name, step.purpose, flow, needs, depends)
    return table
