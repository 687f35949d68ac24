"""The page of a report: plain numbers in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import entropylong
from entropylong.pipeline.metrics.names import lines
from entropylong.reporting.inspect import FULL_COLOUR_NATS
from entropylong.reporting.report import pictures
from entropylong.reporting.report.gallery import BEST, SHOWN, Root
from entropylong.reporting.report.gather import EXAMPLES, Gathered, Rate
from entropylong.storage.codes import CODES
from entropylong.templates import render
from entropylong.utils.intervals import ratio_interval
from entropylong.verification.rules.acceptance import ReadingKind


@dataclass(frozen=True)
class Step:
    """A line of the funnel: how many, and what share of the line that `note` names."""

    label: str
    count: int
    note: str
    share: float | None


def report_page(data: Gathered, roots: Sequence[Root], epsilon: float, rule: str) -> str:
    """The file's text.

    Args:
        data: figures and histograms.
        roots: of the gallery.
        epsilon: `accept.epsilon`.
        rule: `accept.rule`.
    """
    charts = [
        (pictures.entropies(data.entropy, data.anchors, data.thresholds),
         "Where the model is uncertain, and where the threshold tau of a root cuts: the mean of its entropies and alpha standard "
         "deviations more. The scale is logarithmic above 2: the tail is small."),
        (pictures.gains(data.gains, epsilon), gain_words(data.figures, rule)),
        (pictures.by_rank(data.ranks), rank_words(data.ranks)),
        (pictures.by_score(data.scores), "Whether the encoder's similarity knows what will help: bars rise where it does."),
        (pictures.distances(data.distances),
         f"How long the dependencies are in the sequences: the median is {data.figures.get('distance_median', 0):,.0f} tokens."),
    ]  # fmt: skip
    rows = [line for line in lines(data.figures) if line[1] is not None]
    return render(
        "report.html.j2", facts=data.facts, verdict=verdict(data.figures, rule), funnel=funnel(data.figures), pictures=charts,
        roots=roots, best=BEST, links=SHOWN, full=FULL_COLOUR_NATS, stages=data.stages, cost=cost_words(data.figures),
        plan_keys=data.plan_keys, refused=data.refused, codes=CODES, examples=data.examples, examples_shown=EXAMPLES,
        figures=rows, version=entropylong.__version__,
    )  # fmt: skip


def funnel(figures: Mapping[str, float]) -> list[Step]:
    """Documents -> roots -> anchors -> candidates -> verified -> packed."""

    def have(name: str) -> int:
        return int(figures.get(name, 0))

    def share(part: str, whole: str) -> float | None:
        return have(part) / have(whole) if have(whole) else None

    return [
        Step("documents", have("documents"), "", None),
        Step("roots scored", have("roots"), f"{have('root_tokens'):,} tokens", None),
        Step("anchors: uncertain positions", have("anchors"), "of the roots' tokens", share("anchors", "root_tokens")),
        Step(
            "candidates: (anchor, chunk)",
            have("cells_retrieved"),
            f"measured in {have('passes'):,} forward passes, controls too",
            None,
        ),
        Step("dependencies: verified", have("dependencies"), "of the candidates", share("dependencies", "cells_retrieved")),
        Step("roots with one", have("roots_with_dependency"), "of the roots", share("roots_with_dependency", "roots")),
        Step(
            "dependencies in sequences",
            have("packed_dependencies"),
            "of the verified; contexts with the same text are packed once",
            share("packed_dependencies", "dependencies"),
        ),
    ]


def verdict(figures: Mapping[str, float], rule: str) -> str:
    """What was found, how much of it chance would give and how well that is known, and what a shared topic alone gives."""
    text = (
        f"{figures['dependencies']:,.0f} dependencies were verified in {figures.get('roots_with_dependency', 0):,.0f} of "
        f"{figures['roots']:,.0f} roots; {figures.get('packed_dependencies', 0):,.0f} are packed into "
        f"{figures['sequences']:,.0f} sequence{'' if figures['sequences'] == 1 else 's'}."
    )
    passed = {kind: _passed(figures, kind, rule) for kind in ReadingKind}
    retrieved, random, same_root = passed[ReadingKind.RETRIEVED], passed[ReadingKind.RANDOM], passed[ReadingKind.SAME_ROOT]
    if random is None or retrieved is None:
        return f"{text} How many of them are chance is not known: there are no random controls to compare with."
    if not retrieved[0]:
        return f"{text} No context that was retrieved passes the rule."
    low, high = ratio_interval(random, retrieved)
    fdr = min(1.0, figures[f"fdr_{rule}"])
    text += (
        f" Under the same rule {_of(retrieved)} readings of retrieved contexts pass and {_of(random)} of random ones: by that "
        f"measure {fdr:.0%} of the dependencies are chance (95 % interval, were readings independent: "
        f"{min(1.0, low):.0%} to {min(1.0, high):.0%})."
    )
    if same_root is None:
        return text
    topic = min(1.0, same_root[0] / same_root[1] * retrieved[1] / retrieved[0])
    return (
        f"{text} Of readings of contexts that another anchor of the root retrieved, which share its topic, {_of(same_root)} pass: "
        f"a shared topic explains about {topic:.0%} of the dependencies, chance included, the anchor's own query the rest."
    )


def _passed(figures: Mapping[str, float], kind: str, rule: str) -> tuple[int, int] | None:
    """Cells of a kind that pass, and all of the kind; None where there is none."""
    rate, cells = figures.get(f"pass_rate_{kind}_{rule}"), figures.get(f"cells_{kind}")
    return None if rate is None or not cells else (round(rate * cells), round(cells))


def _of(counted: tuple[int, int]) -> str:
    return f"{counted[0]:,} of {counted[1]:,} ({counted[0] / counted[1]:.1%})"


def gain_words(figures: Mapping[str, float], rule: str) -> str:
    """What to see in the gains."""
    both = [figures.get(f"pass_rate_{kind}_{rule}") for kind in ("retrieved", "same_root", "random")]
    names = ("retrieved", "another anchor's", "random")
    rates = ", ".join(f"{name} {value:.1%}" for name, value in zip(names, both, strict=True) if value is not None)
    return (
        f"How much a context lowers the entropy; the scale is logarithmic above 2 %. What stands right of epsilon, the least gain "
        f"that counts, is not accepted by that alone; accepted are: {rates or 'n/a'}. Where chunks have the same text, one reading "
        "stands for each of them."
    )


def rank_words(rates: Sequence[Rate]) -> str:
    """Whether so many candidates an anchor are worth it."""
    count, whole = 0, sum(rate.accepted for rate in rates)
    last = f"the last rank is accepted in {rates[-1].accepted / rates[-1].total:.1%} of its anchors" if whole else ""
    for rate in rates:
        count += rate.accepted
        if whole and count >= 0.9 * whole:
            question = f"Is K = {rates[-1].at:.0f} worth it?"
            if rate is rates[-1]:
                return f"{question} All ranks are needed, and a larger one (retrieval.top_k) may find more: {last}."
            return f"{question} {count / whole:.0%} of the dependencies stand at rank {rate.at:.0f} or better; {last}."
    return "No candidate was accepted at any rank."


def cost_words(figures: Mapping[str, float]) -> str:
    """What a dependency cost."""
    seconds = sum(value for name, value in figures.items() if name.startswith("seconds_"))
    dependencies = figures.get("dependencies", 0)
    if not dependencies or not seconds:
        return "No cost is known: the run that packed had nothing else to do."
    verify = figures.get("seconds_gains", 0.0)
    return (
        f"{seconds:,.0f} seconds in all, {verify / seconds:.0%} of them in verification; {seconds / dependencies:,.2f} seconds and "
        f"{figures.get('forwarded_tokens_gains', 0) / dependencies:,.0f} tokens read for each dependency."
    )
