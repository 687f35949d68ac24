"""How every picture looks, in PNG files, notebooks and pages: one palette, one style. Matplotlib without pyplot.

It is that low because evaluations and experiments draw too, below reports. Nothing is left open or set for others.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

# Ink, soft ink, lines; and colours for what is found, for chance, and for more. The pages' own (templates/base.css), where light.
INK, SOFT, LINE = "#22252a", "#646a73", "#dedbd3"
COLOURS = ("#1d6f86", "#b0562a", "#6b4fa0", "#3f7d3c", "#9a7400", "#9c3a6b")
FOUND, CHANCE, OTHER, GOOD = COLOURS[:4]
_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", **{colour: f"--c{n}" for n, colour in enumerate(COLOURS)}}
DPI = 110
_STYLE: Any = {
    "font.size": 9, "font.family": "sans-serif", "axes.edgecolor": LINE, "axes.labelcolor": SOFT, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "xtick.color": SOFT, "ytick.color": SOFT,
    "text.color": INK, "figure.facecolor": "white", "legend.frameon": False, "legend.fontsize": 8, "grid.color": LINE,
    "grid.linewidth": 0.6, "svg.fonttype": "none",
}  # fmt: skip


def drawn(draw: Callable[..., None], size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any) -> Figure:
    """Make a figure and have it drawn.

    Args:
        draw: is given the panels, row by row.
        size: inches.
        rows, columns: of panels.
        options: as `Figure.subplots` takes them.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(*figure.subplots(rows, columns, squeeze=False, **options).flat)
    return figure


def svg(name: str, figure: Figure) -> str:
    """A figure as a part of a page, with the page's own colours, so that it follows light and dark.

    Args:
        name: unique on its page.
        figure: as `drawn` gives it.
    """
    out = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # What it says of itself is RDF, with addresses that nobody asks; the page names no other place.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A fixed size in points would not shrink on a phone; the viewBox stays.
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # Names of parts are shared by all pictures of a page.
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
