"""One palette for pictures and pages, and pictures that a page can take in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib

import entropylong
from entropylong.utils import chart_style
from entropylong.utils.chart_style import COLOURS, FOUND, INK, LINE, SOFT, drawn, svg


def test_the_palette_is_the_pages_own() -> None:
    css = (Path(entropylong.__file__).parent / "templates" / "base.css").read_text()
    light = dict(re.findall(r"(--\w+): (#\w+)", css[: css.index("@media")]))
    assert (light["--ink"], light["--soft"], light["--line"]) == (INK, SOFT, LINE)
    assert [light[f"--c{place}"] for place in range(len(COLOURS))] == list(COLOURS)


def test_a_picture_is_a_part_of_a_page_and_sets_nothing_for_others() -> None:
    before = dict(matplotlib.rcParams)
    panels: list[Any] = []

    def draw(*axes: Any) -> None:
        panels.extend(axes)
        axes[0].plot([1, 2], color=FOUND)
        axes[1].legend(handles=[], title="said")

    text = svg("one", drawn(draw, (4, 3), rows=2, columns=2))
    assert len(panels) == 4 and dict(matplotlib.rcParams) == before
    assert text.startswith("<svg") and 'height="' not in text[: text.index(">")] and "metadata" not in text
    assert "var(--c0)" in text and "var(--soft)" in text and ">said</text>" in text
    # All colours are the page's, and all names this picture's.
    assert not set(re.findall(r"#[0-9a-f]{6}", text)) & set(chart_style._VARIABLES)
    assert all(name.startswith("one-") for name in re.findall(r'id="([^"]*)"', text))
    assert text == svg("one", drawn(draw, (4, 3), rows=2, columns=2)), "the same picture is the same text"
