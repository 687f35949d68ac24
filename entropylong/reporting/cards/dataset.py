"""The card of the packed sequences. `gather_facts` reads tables (Spark), `dataset_card` writes Markdown (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

import entropylong
from entropylong.config import Config
from entropylong.corpus.decontamination import GRAM
from entropylong.corpus.exclusion import EXCLUDED_GRAMS
from entropylong.corpus.sources.registry import planted_sources
from entropylong.packing.recipes import recipe_of
from entropylong.packing.recipes.base import GroupedRecipe
from entropylong.packing.sequences import SegmentKind
from entropylong.pipeline.steps import STEPS
from entropylong.reporting import wording
from entropylong.reporting.cards.front import check_license, front_matter, public_name, size_category
from entropylong.reporting.report.gather import packed_metrics, refused_rows
from entropylong.storage.array_files import read_manifest
from entropylong.storage.schemas import ARTIFACTS, SEQUENCES
from entropylong.templates import render_markdown
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState


@dataclass(frozen=True)
class Origin:
    """A table behind the sequences: its rows stand under a fingerprint, at a Delta version."""

    table: str
    fingerprint: str
    version: int | None


@dataclass(frozen=True)
class DatasetFacts:
    """What a card says, from tables.

    Attributes:
        config: under which the sequences were packed.
        figures: of the run that packed them.
        groups: roots with their contexts; None of a recipe without.
        sources: name, kind, role, documents that were read.
        origins: in the order of the data.
        models: what it does, its public name, its hash and dtype.
        excluded: names of evaluation sets that were kept out.
        versions: of this package, that wrote the tables.
    """

    config: Config
    figures: Mapping[str, float]
    groups: int | None
    sources: list[tuple[str, str, str, int]]
    origins: list[Origin]
    models: list[tuple[str, str, str]]
    excluded: list[str]
    versions: list[str]


def gather_facts(state: PipelineState) -> DatasetFacts:
    """All of it, under the current config.

    Raises:
        NothingToDoError: nothing is packed under this config.
    """
    config, figures = state.config, packed_metrics(state, "card dataset")
    sequences = state.fingerprint("sequences") or ""
    behind = {step.writes: value for step in STEPS if (value := state.fingerprint(step.writes)) is not None}
    artifacts = [artifact for value in behind.values() if (artifact := state.registry.get(value)) is not None]
    hashes = {name: value for artifact in artifacts for name, value in artifact.models.items()}
    names = {"model": config.model.name, "encoder": config.encoder.name}
    roles = {"model": "measures entropy", "encoder": "retrieves"}
    written = (
        state.store.read_all(ARTIFACTS.name)
        .where(F.col("fingerprint").isin(list(behind.values())))
        .select("code_version")
        .distinct()
    )
    groups = None
    if isinstance(recipe_of(config), GroupedRecipe):
        pieces = state.store.read_ok("sequences", sequences).select(F.explode("segments.kind").alias("kind"))
        groups = pieces.where(F.col("kind") == SegmentKind.ROOT).count()
    return DatasetFacts(
        config=config,
        figures=figures,
        groups=groups,
        sources=list(_sources(state)),
        origins=[
            Origin(table, value, state.store.version(table) if state.store.exists(table) else None)
            for table, value in behind.items()
        ],
        models=[(roles[name], public_name(names[name]), value) for name, value in sorted(hashes.items()) if name in names],
        excluded=excluded_names(state),
        versions=sorted(row.code_version for row in written.collect()),
    )


def excluded_names(state: PipelineState) -> list[str]:
    """The evaluation sets that were kept out, by file name."""
    excluded = state.context.excluded
    if excluded is None:
        return []
    return sorted({PurePath(name).name for name in read_manifest(Path(excluded.directory), EXCLUDED_GRAMS)["names"]})


def _sources(state: PipelineState) -> Iterator[tuple[str, str, str, int]]:
    """Name, kind, role and documents; not what was planted, which is never packed."""
    documents = state.ok_rows("documents")
    counts = {row.source: row["count"] for row in documents.groupBy("source").count().collect()}
    planted = planted_sources(state.config)
    for name, source in sorted(state.config.sources.items()):
        if name not in planted:
            yield name, source.kind, source.role, counts.get(name, 0)


def dataset_card(facts: DatasetFacts, license_id: str | None = None) -> str:
    """The card's text; the same facts give the same text.

    Raises:
        UsageError: the licence has no identifier's form.
    """
    config, figures = facts.config, facts.figures
    recipe = recipe_of(config)
    front = front_matter(
        {
            "license": check_license(license_id),
            "pretty_name": f"EntropyLong sequences ({recipe.name})",
            "size_categories": [size_category(int(figures["sequences"]))],
            "task_categories": ["text-generation"],
            "tags": ["entropylong", "long-context", "pretraining"],
        }
    )
    rates = [
        (name, name == config.accept.rule, record.about, [figures.get(f"pass_rate_{kind}_{name}") for kind in ReadingKind],
         figures.get(f"fdr_{name}"))
        for name, record in RULES.items()
        if f"pass_rate_retrieved_{name}" in figures
    ]  # fmt: skip
    text = render_markdown(
        "dataset_card.md.j2",
        facts=facts,
        figures=wording.shown_metrics(recipe.name, figures),
        license=license_id,
        recipe=recipe,
        anchors=wording.anchors_rule(config),
        accepted=wording.acceptance_rule(config),
        settings=wording.settings(config),
        rates=rates,
        chance=wording.chance(config, figures) if recipe.keeps_dependencies else None,
        columns=SEQUENCES.columns,
        refused=refused_rows(figures),
        limits=wording.limits(config),
        gram=GRAM,
        version=entropylong.__version__,
    )
    return front + text
