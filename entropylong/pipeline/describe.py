"""What each stage would read, write and need: printed from the declarations, without Spark."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.text import Text

from entropylong.config import Config
from entropylong.pipeline.steps import steps_of


def describe_steps(config: Config, names: Sequence[str]) -> Text:
    """A paragraph a step: purpose, reads, writes and key, models, and the semantic keys with their values."""
    models = {"model": config.model.name, "encoder": config.encoder.name}
    text = Text()
    for step in steps_of(list(names)):
        text.append(f"{step.name}", style="bold").append(f"  {step.purpose}\n")
        text.append(f"    reads   {', '.join(step.reads) or 'sources: ' + ', '.join(sorted(config.sources))}\n")
        text.append(f"    writes  {step.writes}, key {', '.join(step.key)}; {step.kind.value}\n")
        for name in step.models:
            text.append(f"    needs   {name} {models[name]}\n")
        for key, value in config.semantic(*step.config).items():
            text.append(f"    key     {key} = {json.dumps(value, ensure_ascii=False)}\n", style="dim")
    return text
