"""The report's pictures: matplotlib's SVG, parts of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from entropylong.reporting.report.gather import ENTROPY_BIN, GAIN_BIN, LEAST_GAIN, SCORE_BIN, Bins, Rate
from entropylong.utils.chart_style import CHANCE, FOUND, INK, OTHER, SOFT, drawn, svg
from entropylong.verification.rules.acceptance import ReadingKind

_LABELS = {
    ReadingKind.RETRIEVED: "retrieved",
    ReadingKind.SAME_ROOT: "another anchor's (control)",
    ReadingKind.RANDOM: "random (control)",
}


def entropies(positions: Bins, anchors: Bins, thresholds: tuple[float, float, float]) -> str:
    """How uncertain the model is, and where tau cuts."""

    def draw(axes: Axes) -> None:
        for bins, color, label in ((positions, FOUND, "all eligible positions"), (anchors, CHANCE, "anchors")):
            places, heights = _steps(bins, ENTROPY_BIN)
            axes.bar(places, heights, ENTROPY_BIN * 0.9, color=color, align="edge", label=label)
        low, middle, high = thresholds
        axes.axvspan(low, high, color=SOFT, alpha=0.15, lw=0)
        axes.axvline(middle, color=INK, lw=1.2, ls="--", label=f"tau of the median root, {middle:.2f} (band: 80 % of roots)")
        axes.set(xlabel="entropy, nats", ylabel="tokens", yscale="symlog")
        _legend(axes)

    return _svg("entropy", draw)


def gains(by_kind: Mapping[str, Bins], epsilon: float) -> str:
    """Gains of candidates against those of controls, each as a share of its kind."""

    def draw(axes: Axes) -> None:
        for kind, color in ((ReadingKind.RETRIEVED, FOUND), (ReadingKind.SAME_ROOT, OTHER), (ReadingKind.RANDOM, CHANCE)):
            places, counts = _steps(by_kind[kind], GAIN_BIN)
            if total := sum(counts):
                axes.step(places, 100 * np.array(counts) / total, where="post", color=color, label=f"{_LABELS[kind]}: {total:,}")
        axes.axvline(epsilon, color=INK, lw=1.2, ls="--", label=f"epsilon {epsilon:g}")
        is_cut = any(bins and min(bins) * GAIN_BIN <= LEAST_GAIN for bins in by_kind.values())
        label = "gain, (H - H') / H" + (f"; below {LEAST_GAIN:g} drawn there" if is_cut else "")
        axes.set(xlabel=label, ylabel="share of its kind, %", yscale="symlog", ylim=0)
        _legend(axes)

    return _svg("gains", draw)


def by_rank(rates: Sequence[Rate]) -> str:
    """What each further rank is worth: its pass rate, and the share of dependencies that are found up to it."""

    def draw(axes: Axes) -> None:
        ranks, shares = _shares(rates)
        axes.bar(ranks, shares, 0.8, color=FOUND, label="accepted at this rank")
        axes.set(xlabel="rank among an anchor's candidates", ylabel="accepted, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        totals = np.cumsum([rate.accepted for rate in rates])
        other.plot(ranks, 100 * totals / max(1, totals[-1] if len(totals) else 1), color=CHANCE, marker="o", ms=3)
        other.set(ylim=(0, 105), ylabel="dependencies up to this rank, %")
        other.yaxis.label.set_color(CHANCE)

    return _svg("ranks", draw)


def by_score(rates: Sequence[Rate]) -> str:
    """Pass rate by similarity, with how many candidates are behind it."""

    def draw(axes: Axes) -> None:
        places, shares = _shares(rates)
        axes.bar(places, shares, SCORE_BIN * 0.9, color=FOUND, align="edge")
        axes.set(xlabel="similarity (cosine) of window and chunk", ylabel="accepted, %")
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        other.plot([place + SCORE_BIN / 2 for place in places], [rate.total for rate in rates], color=CHANCE, marker="o", ms=3)
        other.set(ylim=0, ylabel="candidates")
        other.yaxis.label.set_color(CHANCE)

    return _svg("scores", draw)


def distances(bins: Bins) -> str:
    """How far a packed anchor's context lies in front of it."""

    def draw(axes: Axes) -> None:
        places, counts = _steps(bins, 1)
        axes.bar(places, counts, 0.8, color=FOUND)
        axes.set_xticks(places, [_tokens(2 ** int(place)) for place in places])
        axes.set(xlabel="tokens from context to anchor, at least", ylabel="dependencies")

    return _svg("distances", draw)


def _legend(axes: Axes) -> None:
    """Above the picture, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _tokens(number: int) -> str:
    return f"{number // 1024}K" if number >= 1024 else str(number)


def _steps(bins: Bins, width: float) -> tuple[list[float], list[int]]:
    """Left edges and counts, without gaps."""
    if not bins:
        return [], []
    places = range(min(bins), max(bins) + 1)
    return [place * width for place in places], [bins.get(place, 0) for place in places]


def _shares(rates: Sequence[Rate]) -> tuple[list[float], list[float]]:
    return [rate.at for rate in rates], [100 * rate.accepted / rate.total for rate in rates]


def _svg(name: str, draw: Any) -> str:
    return svg(name, drawn(draw, (5.2, 3.1)))
