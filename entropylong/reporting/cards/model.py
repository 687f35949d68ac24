"""The card of a model that `entropylong train` made: from what the run left in the workspace. Pure Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import entropylong
from entropylong.config import Config
from entropylong.errors import EvaluationError, NothingToDoError, UsageError
from entropylong.evaluation.benchmarks import BENCHMARKS
from entropylong.evaluation.results import SCORES
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.pipeline.metrics.names import FIGURES
from entropylong.reporting import wording
from entropylong.reporting.cards.front import check_license, front_matter, hub_id, public_name
from entropylong.storage.workspace import Workspace
from entropylong.templates import render_markdown
from entropylong.training.data.manifest import FeedManifest, read_manifest
from entropylong.training.describe import model_of
from entropylong.training.optimizer import warmup_steps
from entropylong.training.settings import FILE, RESULT, TrainSettings
from entropylong.training.steps import StepMetrics, is_whole, read_steps

# What the run's settings keep in another form than the config.
_OTHERWISE = ("train.model", "train.data", "train.mode", "train.chat_template", "train.loss_on", "train.seed")
# Of a data set's figures those that a reader of the model's card asks for first.
DATA_FIGURES = (
    ("dependencies", "packed_dependencies", "{:,.0f}"),
    ("median distance", "distance_median", "{:,.0f}"),
    ("padding", "padding_share", "{:.1%}"),
    ("unique tokens", "unique_token_share", "{:.1%}"),
)


@dataclass(frozen=True)
class Data:
    """A feed of the run.

    Attributes:
        kind: sequences, documents or conversations.
        share: of the rows.
        manifest: what it holds.
        recipe: of sequences, where the workspace knows it.
        figures: of the run that packed them, where the workspace has it.
    """

    kind: str
    share: float
    manifest: FeedManifest
    recipe: str | None
    figures: Mapping[str, float]


@dataclass(frozen=True)
class ModelFacts:
    """What a card says.

    Attributes:
        run: name of the run's folder.
        settings: of its ranks.
        steps: its curve.
        data: feeds.
        fingerprint: hash of the trained model's files.
        evaluations: what was evaluated, the facts of it that its record names, its figures.
        mode: pretrain or sft.
    """

    run: str
    settings: TrainSettings
    steps: list[StepMetrics]
    data: list[Data]
    fingerprint: str
    evaluations: list[tuple[str, Mapping[str, Any], Mapping[str, float]]]
    mode: str


def gather_facts(config: Config, run: str | None = None) -> ModelFacts:
    """What the workspace knows of the run of this config that is at its end.

    Args:
        config: as it was trained with.
        run: the run's folder, by name, where several runs of this config ended: on other data.

    Raises:
        NothingToDoError: there is none.
        UsageError: there are several, or none of that name.
    """
    workspace = Workspace(config.workspace)
    runs = {Path(settings.folder).name: settings for settings in _runs(config, workspace)}
    if not runs:
        raise NothingToDoError(
            f"card model: no training run of this config is at its end in {config.workspace}; "
            "run: entropylong train, with the same arguments"
        )
    if (run is None and len(runs) > 1) or (run is not None and run not in runs):
        choices = [f"{name} ({_said(config, workspace, own)})" for name, own in sorted(runs.items())]
        raise UsageError(f"card model: name the run with --run, one of: {', '.join(choices)}")
    name, settings = (run, runs[run]) if run is not None else next(iter(runs.items()))
    folder = workspace.training(name)
    fingerprint = prepare(ModelSpec(str(folder / RESULT)), config.cache_folder).fingerprint
    return ModelFacts(
        run=name,
        settings=settings,
        steps=read_steps(folder),
        data=_data(config, workspace, settings),
        fingerprint=fingerprint,
        evaluations=list(evaluations_of(workspace, fingerprint)),
        mode=config.train.mode,
    )


def _runs(config: Config, workspace: Workspace) -> Iterator[TrainSettings]:
    """Settings of the runs that ended and that this config describes, whatever they were trained on."""
    expected = {
        key.removeprefix("train."): value for key, value in config.semantic("train").items() if not key.startswith(_OTHERWISE)
    }
    expected |= {
        "length": config.pack.length,
        "seed": config.seed if config.train.seed is None else config.train.seed,
        "model": model_of(config).name,
    }
    for file in sorted(workspace.path.glob(f"training/*/{FILE}")):
        settings = replace(TrainSettings.read(file), folder=str(file.parent))  # a workspace may have moved
        if is_whole(settings) and all(getattr(settings, key) == value for key, value in expected.items()):
            yield settings


def _said(config: Config, workspace: Workspace, settings: TrainSettings) -> str:
    return ", ".join(data.recipe or data.kind for data in _data(config, workspace, settings))


def _data(config: Config, workspace: Workspace, settings: TrainSettings) -> list[Data]:
    total, feeds = sum(settings.weights), zip(settings.feeds, settings.weights, strict=True)
    return [_feed(config, workspace, workspace.feed(Path(folder).name), weight / total) for folder, weight in feeds]


def _feed(config: Config, workspace: Workspace, folder: Path, share: float) -> Data:
    manifest = read_manifest(folder)
    if "/" not in manifest.table:  # not an address: a name under train.data
        kind = "conversations" if config.train.mode == "sft" else "documents"
        return Data(kind, share, manifest, None, {})
    file = next(iter(sorted(workspace.path.glob(f"figures/*-{manifest.fingerprint[:8]}/{FIGURES}"))), None)
    record = _read(file) if file is not None else {}
    recipe = record.get("facts", {}).get("recipe")
    return Data("sequences", share, manifest, recipe, wording.shown_metrics(recipe, record.get("figures", {})))


def evaluations_of(workspace: Workspace, fingerprint: str) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, float]]]:
    """Results of the trained model; of an endpoint nobody knows which model answered."""
    for key, benchmark in sorted(BENCHMARKS.items()):
        for file in sorted(workspace.path.glob(f"evaluation/{key}/*/{SCORES}")):
            record = _read(file)
            facts = record.get("facts", {})
            if facts.get("model_hash") == fingerprint:
                card_facts = {name: facts[name] for name in benchmark.card_facts if name in facts}
                yield str(facts.get("label", benchmark.title)), card_facts, record.get("figures", {})


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise EvaluationError(f"{file}: not readable as JSON; remove its folder, and run or evaluate again")
    return content


def model_card(facts: ModelFacts, license_id: str | None = None) -> str:
    """The card's text; the same facts give the same text.

    Raises:
        UsageError: the licence has no identifier's form.
    """
    own = facts.settings
    front = front_matter(
        {
            "license": check_license(license_id),
            "base_model": hub_id(own.model),
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["entropylong", "long-context", facts.mode],
        }
    )
    text = render_markdown(
        "model_card.md.j2",
        facts=facts,
        own=own,
        base=public_name(own.model),
        license=license_id,
        warmup=warmup_steps(own.steps, own.warmup),
        tokens=sum(step.tokens for step in facts.steps),
        data_figures=DATA_FIGURES,
        version=entropylong.__version__,
    )
    return front + text
