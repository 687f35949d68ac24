"""Pages: one HTML file each, that asks no network for anything. Pure Python."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page's text; the same values give the same text.

    Args:
        template: a file of this folder.
        values: that it names. Text of documents, names and paths are whoever's who made them: nothing of them becomes markup.
    """
    environment = Environment(
        loader=PackageLoader("entropylong", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values) + "\n"
