"""The notebooks' pictures: plain tables in, a picture out."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from entropylong.config.schema import AnchorsConfig
from entropylong.notebook.charts.comparing import Interval
from entropylong.notebook.charts.dependencies import ACCEPTED, Judged
from entropylong.notebook.charts.entropy import Profile, eligible_entropies
from entropylong.reporting.report.page import Step
from entropylong.utils.chart_style import CHANCE, COLOURS, DPI, FOUND, GOOD, INK, LINE, OTHER, SOFT, drawn
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind
from entropylong.verification.rules.base import EXCESS, GAIN

KIND_COLOURS = {ReadingKind.RETRIEVED: FOUND, ReadingKind.SAME_ROOT: OTHER, ReadingKind.RANDOM: CHANCE}
KIND_NAMES: dict[str, str] = {
    ReadingKind.RETRIEVED: "retrieved",
    ReadingKind.SAME_ROOT: "control: same root",
    ReadingKind.RANDOM: "control: random",
}
_PERCENT = PercentFormatter(1.0, decimals=0)


class Picture:
    """A matplotlib figure that any notebook shows; `figure` is there to be changed or saved."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=DPI)
        return out.getvalue()

    def __repr__(self) -> str:
        return "a picture"


def _picture(draw: Callable[..., None], columns: int = 1, size: tuple[float, float] = (9.0, 3.8), **options: Any) -> Picture:
    return Picture(drawn(draw, size, columns=columns, **options))


# --- 01: entropy ------------------------------------------------------------------------------------------------------


def entropy(sample: Sequence[Profile], rule: AnchorsConfig, table: pd.DataFrame) -> Picture:
    """How uncertain the model is at all positions, and where tau of the median root lies at each alpha (a table of `by_alpha`)."""

    def draw(axes: Axes) -> None:
        values = eligible_entropies(sample, rule)
        axes.hist(values, bins=np.arange(0, values.max() + 0.25, 0.25).tolist(), color=FOUND, rwidth=0.9)
        axes.set(yscale="log", xlabel="entropy of a position, nats", ylabel="positions")
        axes.set_ylim(0.7, axes.get_ylim()[1] * 4)
        axes.set_xlim(0, max(values.max(), table["tau"].max()) + 0.8)
        for place, (alpha, tau) in enumerate(table["tau"].dropna().items()):
            axes.axvline(tau, color=CHANCE, lw=1.2, ls="--")
            axes.annotate(
                f"alpha {alpha:g}", (tau, 1), (3, -12 - 12 * (place % 2)), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=9, color=CHANCE,
            )  # fmt: skip
        axes.set_title(f"Entropy at {len(values):,} positions of {len(sample):,} roots, and the threshold of the median root")

    return _picture(draw)


def anchor_counts(sample: Sequence[Profile], rule: AnchorsConfig, alphas: Sequence[float]) -> Picture:
    """Anchors a root: each dot a root, a line at the median."""

    def draw(axes: Axes) -> None:
        jitter = np.random.default_rng(0)
        for place, alpha in enumerate(alphas):
            counts = np.array([len(one.anchors(rule, alpha).positions) for one in sample])
            colour = FOUND if alpha == rule.alpha else SOFT
            spread = jitter.uniform(-0.25, 0.25, len(counts))
            axes.scatter(place + spread, counts, s=20, color=colour, alpha=0.55, lw=0, clip_on=False)
            axes.hlines(np.median(counts), place - 0.35, place + 0.35, color=colour, lw=2)
            axes.annotate(f"{np.median(counts):g}", (place + 0.37, np.median(counts)), va="center", fontsize=9, color=colour)
        axes.set_xticks(range(len(alphas)), [f"{a:g}{' (configured)' if a == rule.alpha else ''}" for a in alphas])
        axes.set(xlabel="alpha", ylabel="anchors", ylim=0)
        axes.set_title("Anchors of each root; the line is the median")
        axes.grid(axis="y")

    return _picture(draw)


def root_profile(one: Profile, texts: Sequence[str], rule: AnchorsConfig, named: int = 10) -> Picture:
    """One root: entropy as height and colour, tau, and the anchors, the highest with their tokens."""

    def draw(axes: Axes) -> None:
        heights = np.nan_to_num(one.entropy)
        own = one.anchors(rule)
        places = np.arange(len(heights))
        axes.bar(places, heights, width=1.0, color=_heat(heights))
        axes.axvspan(-0.5, rule.min_position - 0.5, color=LINE, alpha=0.5, lw=0)
        axes.axhline(own.threshold, color=INK, lw=1, ls="--")
        axes.annotate(f"tau {own.threshold:.2f}", (len(heights), own.threshold), (4, 4), textcoords="offset points", fontsize=9)
        axes.plot(own.positions, heights[own.positions] + 0.15, ls="", marker="v", color=INK, ms=4)
        label_places: list[int] = []
        for place in sorted(own.positions.tolist(), key=lambda p: -heights[p])[:named]:
            if all(abs(place - other) > len(heights) / 40 for other in label_places):
                label_places.append(place)
                axes.annotate(
                    repr(texts[place]), (place, heights[place] + 0.3), rotation=60, fontsize=8, va="bottom", ha="left",
                    parse_math=False,
                )  # fmt: skip
        axes.set(xlim=(-0.5, len(heights) + len(heights) / 14), ylim=(0, heights.max() * 1.35), xlabel="position, tokens")
        axes.set(ylabel="entropy, nats")
        # Ids and tokens are as they are: a $ in them begins no formula.
        axes.set_title(f"{one.root_id}: {len(own.positions)} anchors (grey: not eligible)", parse_math=False)

    return _picture(draw, size=(11.0, 3.8))


def _heat(heights: Any) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    calm_to_hot = LinearSegmentedColormap.from_list("heat", ["#cfd8dc", "#e0a070", "#b03a1c"])
    return calm_to_hot(np.clip(heights / 8.0, 0, 1))


def alpha_worth(table: pd.DataFrame) -> Picture:
    """A table of `worth_of_alpha`: what a larger alpha leaves, loses, and how often its anchors are answered."""

    def draw(left: Axes, right: Axes) -> None:
        for column, colour in (("anchors left", CHANCE), ("dependencies kept", FOUND)):
            left.plot(table.index, table[column], marker="o", ms=4, color=colour, label=column)
        left.set(xlabel="alpha", ylim=(0, 1.05), title="What a larger alpha leaves")
        left.legend(loc="lower left")
        right.plot(table.index, table["answered"], marker="o", ms=4, color=GOOD)
        for alpha, row in table[table["anchors"] > 0].iterrows():
            right.annotate(
                f"of {row['anchors']:,.0f}", (alpha, row["answered"]), (5, -12), textcoords="offset points", fontsize=8, color=SOFT
            )
        right.set(
            xlabel="alpha", ylim=(0, 1.25 * max(0.04, table["answered"].max())), title="Share of its anchors that are answered"
        )
        for axes in (left, right):
            axes.set_xlim(table.index.min() - 0.1, table.index.max() + 0.2)
            axes.yaxis.set_major_formatter(_PERCENT)
            axes.grid(axis="y")

    return _picture(draw, 2)


# --- 02: dependencies -------------------------------------------------------------------------------------------------


def funnel(steps: Sequence[Step]) -> Picture:
    """From documents to packed dependencies, on a logarithmic scale."""

    def draw(axes: Axes) -> None:
        bars = list(steps)[::-1]
        axes.barh([step.label for step in bars], [max(step.count, 0.5) for step in bars], color=FOUND, height=0.62)
        for place, step in enumerate(bars):
            share = f"   {step.share:.1%} {step.note}" if step.share is not None else f"   {step.note}" if step.note else ""
            axes.annotate(
                f"{step.count:,}{share}", (max(step.count, 0.5), place), (5, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set(xscale="log", xlim=(0.5, 60 * max(step.count for step in bars)), xlabel="number (logarithmic)")
        axes.tick_params(axis="y", labelcolor=INK, length=0)

    return _picture(draw, size=(9.5, 3.6))


def thresholds(tables: Mapping[str, pd.DataFrame], configured: Mapping[str, float]) -> Picture:
    """Tables of `by_threshold`, one panel each: pass rates of candidates and controls; the dashed line is what is configured."""

    def draw(*panels: Axes) -> None:
        for axes, (key, table) in zip(panels, tables.items(), strict=True):
            for kind in ReadingKind:
                if table[kind].notna().any():
                    axes.plot(table.index, table[kind], color=KIND_COLOURS[kind], lw=2, label=KIND_NAMES[kind])
            axes.axvline(configured[key], color=INK, lw=1, ls="--")
            axes.set(xlabel=f"accept.{key}", ylim=0)
            axes.yaxis.set_major_formatter(_PERCENT)
            axes.grid(axis="y")
        panels[0].set_ylabel("share that passes")
        panels[0].legend()

    return _picture(draw, len(tables), (4.0 * len(tables), 3.6), sharey=True)


def refused(table: pd.DataFrame) -> Picture:
    """A table of `refusals`: what became of the readings of each kind."""

    def draw(axes: Axes) -> None:
        left = np.zeros(len(table.columns))
        shades = dict(
            zip([name for name in table.index if name != ACCEPTED], ("#c9c5bb", "#a9a7a0", "#85868a", "#646a73"), strict=False)
        )
        for why in table.index:
            values = table.loc[why].to_numpy()
            colour = shades.get(why, GOOD)
            axes.barh([KIND_NAMES[kind] for kind in table.columns], values, left=left, color=colour, label=why, height=0.6)
            for place, (value, start) in enumerate(zip(values, left, strict=True)):
                if value > 0.045:
                    dark = colour in ("#85868a", "#646a73", GOOD)
                    axes.text(
                        start + value / 2,
                        place,
                        f"{value:.0%}",
                        ha="center",
                        va="center",
                        fontsize=9,
                        color="white" if dark else INK,
                    )
            left = left + values
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.set(xlim=(0, 1), xlabel="share of its kind, by the first condition that is not met")
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(table.index))

    return _picture(draw, size=(9.5, 2.9))


def verdicts(sample: Judged) -> Picture:
    """Each candidate and control by its gain and by how far it stands above its controls; what is accepted stands out."""

    def draw(left: Axes, right: Axes) -> None:
        readings, conditions = sample.readings.dropna(subset=["excess_gain"]), RULES[sample.rule.rule].conditions
        # A context that makes an anchor that much less certain is as bad as any.
        readings = readings.assign(**{name: readings[name].clip(lower=-1.0) for name in ("gain", "excess_gain")})
        for axes, kinds, name in (
            (left, (ReadingKind.RETRIEVED,), "retrieved"),
            (right, (ReadingKind.SAME_ROOT, ReadingKind.RANDOM), "controls"),
        ):
            own = readings[readings["kind"].isin(kinds)]
            for is_good, colour, label in ((False, SOFT, "refused"), (True, GOOD, "passes")):
                part = own[(own["why"] == ACCEPTED) == is_good]
                axes.scatter(part["gain"], part["excess_gain"], s=12, lw=0, alpha=0.75 if is_good else 0.25, color=colour,
                             label=f"{label}: {len(part):,}")  # fmt: skip
            if GAIN in conditions:
                axes.axvline(sample.rule.epsilon, color=INK, lw=1, ls="--")
            if EXCESS in conditions:
                axes.axhline(sample.rule.min_excess, color=INK, lw=1, ls="--")
            rate = f", {(own['why'] == ACCEPTED).mean():.1%} pass" if len(own) else ""
            axes.set(xlabel="gain, (H - H') / H", title=f"{name}: {len(own):,}{rate}")
            axes.legend(loc="upper left")
        left.set_ylabel("gain above the controls at the same anchor")

    return _picture(draw, 2, (9.5, 4.2), sharex=True, sharey=True)


# --- 03: comparison ---------------------------------------------------------------------------------------------------


def compared(names: Sequence[str], first: Mapping[str, Interval], second: Mapping[str, Interval],
             change: Mapping[str, Interval]) -> Picture:  # fmt: skip
    """Figures of two runs with their 95 % intervals; bold where the difference over common roots leaves out 0."""
    labels = [label for label in first if label in second]

    def draw(*panels: Axes) -> None:
        for axes, label in zip(panels, labels, strict=True):
            for place, (one, colour) in enumerate(((first[label], FOUND), (second[label], CHANCE))):
                error = np.nan_to_num([[one.value - one.low], [one.high - one.value]])
                axes.errorbar([place], [one.value], yerr=np.maximum(error, 0), fmt="o", color=colour, capsize=4, lw=2)
                text = f"{one.value:.1%}" if label.endswith("pass") else f"{one.value:.2f}"
                axes.annotate(text, (place, one.value), (8, 0), textcoords="offset points", va="center", fontsize=9, color=colour)
            if label.endswith("pass"):
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_xticks((0, 1), names)
            axes.set(xlim=(-0.5, 1.8), ylim=0)
            axes.grid(axis="y")
            verdict = change[label].verdict if label in change else "no common roots"
            axes.set_title(f"{_wrapped(label)}\n({verdict})", fontsize=9.5, fontweight="bold" if verdict == "differs" else "normal")

    return _picture(draw, len(labels), (2.5 * len(labels), 3.6))


def _wrapped(label: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(label, 20))


# --- 04: cost ---------------------------------------------------------------------------------------------------------


def run_prices(stages: pd.DataFrame, ways: Mapping[str, float], configured: str, currency: str = "USD") -> Picture:
    """A table of `by_stage`, and beside it the whole run by way to verify (of `by_way`), the configured one marked."""

    def draw(left: Axes, right: Axes) -> None:
        hours = [f"{gpu:,.1f} GPU h" if gpu >= 0.05 else f"{core:,.1f} core h" if core >= 0.05 else ""
                 for gpu, core in zip(stages["device hours"], stages["core hours"], strict=True)]  # fmt: skip
        _bars(left, dict(stages["price"]), [FOUND] * len(stages), hours)
        left.set(xlabel=f"price, {currency}", title=f"By stage: {stages['price'].sum():,.0f} {currency} in all")
        notes = [f"{ways['literal'] / price:,.1f} x cheaper" if way != "literal" else "" for way, price in ways.items()]
        _bars(right, ways, [CHANCE if way == configured else SOFT for way in ways], notes)
        right.set(xlabel=f"price of the whole run, {currency}", title=f"By way to verify: configured is {configured}")

    return _picture(draw, 2, (12.0, 2.9))


def _bars(axes: Axes, values: Mapping[str, float], colours: Sequence[str], notes: Sequence[str]) -> None:
    places = range(len(values))
    axes.barh(places, list(values.values()), color=list(colours), height=0.62)
    for place, value, note in zip(places, values.values(), notes, strict=True):
        text = f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
        axes.annotate(f"{text}   {note}", (value, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(values.values()))
    axes.tick_params(axis="y", labelcolor=INK, length=0)


def prices(tables: Mapping[str, pd.DataFrame], configured: Mapping[str, float], currency: str = "USD") -> Picture:
    """Tables of `over`, one panel each; a line a way to verify, the dashed line what is asked for."""

    def draw(*panels: Axes) -> None:
        for axes, (label, table) in zip(panels, tables.items(), strict=True):
            # Thinner and thinner, as ways that cost the same lie one over the other.
            for place, (way, colour) in enumerate(zip(table.columns, (SOFT, *COLOURS), strict=False)):
                axes.plot(table.index, table[way], color=colour, lw=5.0 - 0.9 * place, label=way, solid_capstyle="butt")
            axes.axvline(configured[label], color=INK, lw=1, ls="--")
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.set_xticks(table.index, [_short(value) for value in table.index])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
            axes.grid(axis="y")
        panels[0].set_ylabel(f"price of the whole run, {currency}")
        panels[-1].legend(title="verification", loc="center left", bbox_to_anchor=(1, 0.5))

    return _picture(draw, len(tables), (4.6 * len(tables) + 1.2, 3.8), sharey=True)


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}K" if value >= 1e3 else f"{value:g}"
