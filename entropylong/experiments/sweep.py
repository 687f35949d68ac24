"""`entropylong sweep`: the same corpus under several settings, in one workspace, so that no reading is made twice. Driver side.

A variant runs from the first stage that its key concerns; what it needs and what another variant measured stays as it is.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.config import Config
from entropylong.config.loader import split_values
from entropylong.config.schema import walk
from entropylong.core.stage import Stage
from entropylong.errors import UsageError, WorkspaceError
from entropylong.pipeline.steps import STEPS
from entropylong.tracking.mlflow import connect, log_once, run_of
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.utils.log import muted

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner

logger = logging.getLogger(__name__)

# What the table shows: heading, figure, format.
COLUMNS = (
    ("anchors", "anchors", ",.0f"),
    ("dependencies", "dependencies", ",.0f"),
    ("a root", "dependencies_a_root", ".1f"),
    ("mean gain", "gain_mean", ".2f"),
    ("random pass", "control_rate", ".1%"),
    ("FDR", "fdr", ".2f"),
    ("tokens out", "sequence_tokens", ",.0f"),
    ("new passes", "new_passes", ",.0f"),
    ("seconds", "seconds", ",.0f"),
)
_PLOTTED = ("anchors", "dependencies", "gain_mean", "control_rate", "sequence_tokens", "new_passes")


@dataclass(frozen=True)
class Variant:
    """Values of swept keys: of all of them those of the config (base), of one of them another, or a combination."""

    values: tuple[tuple[str, Any], ...]
    base: bool = False

    @property
    def overrides(self) -> list[str]:
        """As on the command line."""
        return [f"{key}={json.dumps(value)}" for key, value in self.values]

    @property
    def name(self) -> str:
        """For people."""
        return "as configured" if self.base else ", ".join(f"{key}={value}" for key, value in self.values)


@dataclass(frozen=True)
class Outcome:
    """A variant and the figures that it gave."""

    variant: Variant
    figures: Mapping[str, float]


def variants(config: Config, words: Sequence[str], grid: bool) -> list[Variant]:
    """The config itself, then each other value of each key by itself, or every combination.

    Args:
        config: as configured.
        words: `key=value,value,...`.
        grid: every combination.

    Raises:
        UsageError: there is no key with values, or one that decides no stage's result.
    """
    by_key = dict(walk(config.model_dump()))
    swept: dict[str, list[Any]] = {}
    for word in words:
        key, values = split_values(word)
        if key not in by_key:
            raise UsageError(f"{word}: no key {key!r} with a value of its own; conf/base.yaml lists all")
        if first_stage([key]) is None:
            raise UsageError(f"{word}: {key} decides no stage's result; sweep keys that do, like anchors.alpha or accept.epsilon")
        swept[key] = list(dict.fromkeys([*swept.get(key, []), *values]))  # a key that is given twice has all the values
    if not swept:
        raise UsageError("give the keys to sweep: anchors.alpha=1.5,2.0,2.5 accept.epsilon=0.2,0.4")
    own = tuple((key, by_key[key]) for key in swept)
    if grid:
        alternatives = [Variant(tuple(zip(swept, values, strict=True))) for values in itertools.product(*swept.values())]
    else:
        alternatives = [Variant(((key, value),)) for key, values in swept.items() for value in values]
    return [Variant(own, True), *(v for v in alternatives if any(pair not in own for pair in v.values))]


def first_stage(keys: Sequence[str]) -> Stage | None:
    """The first step that one of the keys concerns; None if none."""

    def concerns(step: Stage, key: str) -> bool:
        return any(key == part or key.startswith(f"{part}.") for part in (*step.config, *step.selects))

    return next((step for step in STEPS if any(concerns(step, key) for key in keys)), None)


def folder_of(base: Config, chosen: Sequence[Variant]) -> Path:
    """Where a sweep's results are kept: another config sweeps the same values to other results, in another folder."""
    name = digest([base.semantic(*Config.model_fields), [variant.overrides for variant in chosen]])
    return Path(base.workspace) / "sweeps" / f"sweep-{name}"


def run_sweep(
    load: Callable[[Sequence[str]], Config],
    chosen: Sequence[Variant],
    open_: Callable[[Config], Runner],
) -> list[Outcome]:
    """Run each variant, and log it to MLflow as a child of the sweep; a sweep that was broken off goes on as the same one.

    Args:
        load: overrides -> the config with them.
        chosen: variants, the config's own first.
        open_: a config -> a runner in its workspace.
    """
    base = load(())
    folder = folder_of(base, chosen)
    (folder / "variants").mkdir(parents=True, exist_ok=True)
    client, experiment = connect(base.tracking)
    parent = run_of(client, experiment, "entropylong.sweep", digest(str(folder.absolute())), folder.name, {}).info.run_id
    client.set_terminated(parent, "RUNNING")
    outcomes = []
    try:
        for number, variant in enumerate(chosen, start=1):
            logger.info(f"{number} of {len(chosen)}: {variant.name}")
            outcome = _run(load(variant.overrides), variant, open_, folder / "variants")
            kind, identity = {"mlflow.parentRunId": parent}, digest([parent, variant.name, dict(outcome.figures)])
            values = dict(variant.values)
            log_once(base.tracking, "entropylong.variant", identity, variant.name, kind, values, outcome.figures, ())
            outcomes.append(outcome)
        write_whole(folder / "results.json", json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
        draw(outcomes, folder / "sweep.png")
        for file in ("results.json", "sweep.png"):
            client.log_artifact(parent, str(folder / file))
        logger.info(f"results and picture: {folder}")
    finally:
        client.set_terminated(parent, "FINISHED" if len(outcomes) == len(chosen) else "FAILED")
    return outcomes


def _run(config: Config, variant: Variant, open_: Callable[[Config], Runner], folder: Path) -> Outcome:
    """Run a variant, and keep what it gave and cost in a file of its own.

    Its cost is that of the start of the sweep that finished it: a later one, which finds all done, takes it from the file. What a
    start that was broken off within the variant had done by then is in no variant's cost.
    """
    from entropylong.pipeline.metrics.compute import latest_metrics

    runner = open_(config)
    first = None if variant.base else first_stage([key for key, _ in variant.values])
    # What lies before it is as the config's own run, the first of the sweep, has left it.
    names = [] if first is None else list(dict.fromkeys(step.name for step in STEPS[STEPS.index(first) :]))
    before = _passes(runner)
    with muted("pipeline"):
        result = runner.run(names)
    figures = dict(result.figures or latest_metrics(runner.state))
    rule = config.accept.rule
    picked = {"control_rate": f"pass_rate_random_{rule}", "fdr": f"fdr_{rule}"}
    figures |= {name: figures[source] for name, source in picked.items() if source in figures}
    figures["new_passes"] = float(_passes(runner) - before)
    figures["seconds"] = float(sum(step.seconds for step in result.steps))
    file, value = folder / f"{digest(variant.overrides)}.json", runner.state.fingerprint("sequences")
    if not result.steps and file.is_file() and (entry := _kept(file))["fingerprint"] == value:
        figures |= {name: entry["figures"][name] for name in ("new_passes", "seconds")}
    write_whole(file, json.dumps({"variant": variant.name, "fingerprint": value, "figures": figures}, indent=1))
    return Outcome(variant, figures)


def _passes(runner: Runner) -> int:
    """Passes that are in the workspace, of all settings that share them: a row each. What a budget left out is none."""
    return runner.state.ok_rows("gains").count()


def _kept(file: Path) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(file.read_text())
        return {"fingerprint": entry["fingerprint"], "figures": {k: float(entry["figures"][k]) for k in ("new_passes", "seconds")}}
    except (OSError, ValueError, KeyError, TypeError):
        raise WorkspaceError(
            f"{file}: what a variant of the sweep cost is not readable; remove the file, it counts as nothing"
        ) from None


def sweep_table(outcomes: Sequence[Outcome]) -> Table:
    """A row a variant. A figure that does not exist there is left empty."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("variant")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        cells = [format(outcome.figures[figure], form) if figure in outcome.figures else "" for _, figure, form in COLUMNS]
        table.add_row(outcome.variant.name, *cells)
    return table


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """A picture: a row a key, a column a figure; the dashed line is the config as it is."""
    from entropylong.utils.chart_style import CHANCE, DPI, FOUND, drawn

    base = outcomes[0].figures
    keys = [key for key, _ in outcomes[0].variant.values]

    def plot(*axes: Any) -> None:
        for place, key in enumerate(keys):
            own = dict(outcomes[0].variant.values)
            # On one line lie the variants in which no other key has another value than the config's.
            alone = [o for o in outcomes if all(k == key or value == own[k] for k, value in o.variant.values)]
            points = [(str(dict(o.variant.values)[key]), o.figures) for o in alone if key in dict(o.variant.values)]
            points.sort(key=lambda point: (len(point[0].partition(".")[0]), point[0]))
            for axis, name in zip(axes[place * len(_PLOTTED) :], _PLOTTED, strict=False):
                curve = [(label, figures[name]) for label, figures in points if name in figures]
                axis.plot([label for label, _ in curve], [value for _, value in curve], marker="o", color=FOUND)
                if name in base:
                    axis.axhline(base[name], color=CHANCE, linestyle="--", linewidth=1)
                axis.set(title=name.replace("_", " "), xlabel=key)

    figure = drawn(plot, (3.2 * len(_PLOTTED), 2.6 * len(keys)), len(keys), len(_PLOTTED))
    figure.savefig(path, dpi=DPI)
