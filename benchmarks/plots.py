"""Pictures of `runs/bench/results.jsonl`: the ratios, how our time grows, and what the screen finds at which saving."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS, NAIVE, MUTED = "#1f6feb", "#8b949e", "#57606a"
RATIOS = ("scoring", "verification_retrieved", "verification_all", "embedding", "screen_left_window")
LABELS = {
    "scoring": "scoring",
    "verification_retrieved": "verification, scope retrieved",
    "verification_all": "verification, scope all",
    "embedding": "embedding",
    "screen_left_window": "verification, screened",
}

Line = dict[str, Any]


def read_results(path: Path) -> list[Line]:
    """The objects of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def draw(results: Sequence[Line], folder: Path) -> list[Path]:
    """Write `ratios.png`, `growth.png` and `screen.png`, those that there is something to show in."""
    by_name = {line["name"]: line for line in results}
    files = []
    for name, is_there, plot in (
        ("ratios.png", any(n in by_name for n in RATIOS), lambda ax: _ratios(ax, by_name)),
        ("growth.png", any(n.endswith("_growth") for n in by_name), lambda ax: _growth(ax, results)),
        ("screen.png", "screen_left_window" in by_name, lambda ax: _screen(ax, by_name["screen_left_window"])),
    ):
        if not is_there:
            continue
        figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
        plot(axes)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.text(0.005, 0.005, results[-1]["machine"], fontsize=7, color=MUTED)
        figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
        figure.savefig(folder / name, dpi=150)
        plt.close(figure)
        files.append(folder / name)
    return files


def _ratios(axes: Axes, by_name: dict[str, Line]) -> None:
    names = [name for name in RATIOS if name in by_name][::-1]
    values = [by_name[name]["ratio"] for name in names]
    bars = axes.barh([LABELS[name] for name in names], values, color=OURS, height=0.6)
    axes.bar_label(bars, [f"{value:.1f} x" for value in values], padding=4)
    axes.axvline(1, color=NAIVE, linewidth=1, linestyle="--")
    axes.set_xlim(0, 1.12 * max(values))
    axes.set_xlabel("times as fast as the naive way (the screen: as exact verification); median of the pairs of one run")
    axes.set_title("How much faster", loc="left", fontweight="bold")


def _growth(axes: Axes, results: Sequence[Line]) -> None:
    for marker, name in zip("osD", sorted({line["name"] for line in results if line["name"].endswith("_growth")}), strict=False):
        points = sorted((line["size"], line["ours"]) for line in results if line["name"] == name)
        sizes, times = [size for size, _ in points], [time / points[0][1] for _, time in points]
        axes.plot(sizes, times, marker=marker, label=f"{name.removesuffix('_growth')}: {times[-1]:.1f} x at {sizes[-1]} x")
    axes.plot([1, 8], [1, 8], color=NAIVE, linestyle="--", label="in proportion")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g} x")
    axes.set_xlabel("size of the input")
    axes.set_ylabel("our time")
    axes.legend(frameon=False)
    axes.set_title("How our time grows", loc="left", fontweight="bold")


def _screen(axes: Axes, line: Line) -> None:
    savings = [point["saving_all"] for point in line["curve"]]
    recalls, lows = ([point[key] for point in line["curve"]] for key in ("recall_specific", "recall_low_specific"))
    axes.fill_between(savings, lows, recalls, color=OURS, alpha=0.15, label="down to its lower 95 % bound")
    positives = line["positives_specific"]
    axes.plot(savings, recalls, marker="o", color=OURS, label=f"recall of {positives} dependencies")
    for point, saving, recall in zip(line["curve"], savings, recalls, strict=True):
        axes.annotate(
            f"{point['min_gain']:g}", (saving, recall), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_ylim(min(0.5, *lows) - 0.05, 1.06)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel(f"share of forwarded tokens saved; at each point verify.screen.min_gain (window {line['window']})")
    axes.legend(frameon=False, loc="lower left")
    axes.set_title("What the left-window screen finds, and saves", loc="left", fontweight="bold")
