"""Names of a run's figures: which people look for first, what they call them and how they are written. Pure Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind
from entropylong.verification.rules.base import AcceptanceRule

# The file of a run's figures, and what they are of.
FIGURES = "figures.json"
# Position bands of pass rates: the first tokens of a text are uncertain for want of any context (method, Stage 1).
BANDS = (("before_32", 0, 32), ("32_128", 32, 128), ("128_512", 128, 512), ("beyond_512", 512, 2**31 - 1))
# A line each: label, figure, format; a line without a figure parts groups. Between these are the lines of the acceptance rules.
Line = tuple[str, str | None, str]
_BEFORE: tuple[Line, ...] = (
    ("documents", "documents", "{:,.0f}"),
    ("chunks to retrieve from", "chunks", "{:,.0f}"),
    ("roots scored", "roots", "{:,.0f}"),
    ("tokens of roots", "root_tokens", "{:,.0f}"),
    ("", None, ""),
    ("anchors a root", "anchors_a_root", "{:.1f}"),
    ("candidates", "candidates", "{:,.0f}"),
    ("pairs = forward passes", "pairs", "{:,.0f}"),
    ("tokens forwarded to verify", "forwarded_tokens_gains", "{:,.0f}"),
    ("tokens a second, verify", "tokens_per_second_gains", "{:,.0f}"),
    ("  share of time in forward passes", "accelerator_busy_gains", "{:.0%}"),
    ("  share of Arrow, JVM and idle slots", "arrow_jvm_share_gains", "{:.0%}"),
    ("", None, ""),
    ("screen: recall of held-out dependencies", "screen_recall", "{:.1%}"),
    ("  at least, with 95 % confidence", "screen_recall_low", "{:.1%}"),
    ("  held-out dependencies", "screen_positives", "{:,.0f}"),
    ("  share of tokens saved", "screen_saving", "{:.0%}"),
)
_AFTER: tuple[Line, ...] = (
    ("", None, ""),
    ("canaries: planted pairs", "canary_planted", "{:,.0f}"),
    ("  recall of retrieval", "canary_recall_retrieval", "{:.1%}"),
    ("  recall of verification, of what was retrieved", "canary_recall_verification", "{:.1%}"),
    ("  precision of verification", "canary_precision", "{:.1%}"),
    ("verified dependencies", "dependencies", "{:,.0f}"),
    ("roots with one", "roots_with_dependency", "{:,.0f}"),
    ("dependencies a root with one", "dependencies_a_root", "{:.1f}"),
    ("mean gain", "gain_mean", "{:.2f}"),
    ("mean excess gain", "excess_gain_mean", "{:.2f}"),
    ("", None, ""),
    ("sequences", "sequences", "{:,.0f}"),
    ("tokens of a group: a root and its contexts", "group_tokens", "{:,.0f}"),
    ("dependency distance, median tokens", "distance_median", "{:,.0f}"),
    ("dependency distance, 90th percentile", "distance_p90", "{:,.0f}"),
    ("filler share", "filler_share", "{:.1%}"),
    ("padding share", "padding_share", "{:.1%}"),
    ("rows refused as errors", "error_rows", "{:,.0f}"),
)


def metric_lines() -> tuple[Line, ...]:
    """All lines, in the order in which people read them."""
    return (*_BEFORE, *(line for record in RULES.values() for line in _lines_of(record)), *_AFTER)


def _lines_of(record: AcceptanceRule) -> Iterator[Line]:
    """Pass rates of candidates and controls under a rule, and its FDR; where the rule says so, rates by position too."""
    yield f"pass rate, {record.title}: retrieved", f"pass_rate_retrieved_{record.name}", "{:.1%}"
    yield "  control: same root", f"pass_rate_same_root_{record.name}", "{:.1%}"
    yield "  control: random", f"pass_rate_random_{record.name}", "{:.1%}"
    yield "  FDR", f"fdr_{record.name}", "{:.2f}"
    for name, _, _ in BANDS if record.shows_bands else ():
        places = name.replace("_", " " if name[0].isalpha() else "-")
        for kind in (ReadingKind.RETRIEVED, ReadingKind.RANDOM):
            yield f"  {kind}, positions {places}", f"band_{name}_{kind}_{record.name}", "{:.1%}"


def is_shown(name: str, figures: Mapping[str, float]) -> bool:
    """Whether a figure has a line: that a band has no anchors, or that there is no screen or canary, says nothing."""
    return name in figures or not name.startswith(("band_", "screen_", "canary_"))


def lines(figures: Mapping[str, float]) -> Iterator[tuple[str, str | None]]:
    """(label, value as people read it), a line each; a line without a value parts groups."""
    for label, name, form in metric_lines():
        if name is None:
            yield label, None
        elif is_shown(name, figures):
            yield label, form.format(figures[name]) if name in figures else "n/a"
