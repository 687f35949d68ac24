"""Pages: one HTML file each, that asks no network for anything; and cards in Markdown. Pure Python."""

from __future__ import annotations

import html
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page's text; the same values give the same text.

    Args:
        template: a file of this folder.
        values: that it names. Text of documents, names and paths are whoever's who made them: nothing of them becomes markup.
    """
    environment = Environment(
        loader=PackageLoader("entropylong", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values) + "\n"


def render_markdown(template: str, **values: Any) -> str:
    """A Markdown file's text, without more than one empty line in a row.

    Args:
        template: a file of this folder. Its filters: `code` for names and `cell` for other text of others; neither ends a table's
            cell or becomes markup.
        values: that it names.
    """
    environment = Environment(
        loader=PackageLoader("entropylong", "templates"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "cell": _cell}
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values)).rstrip() + "\n"


def _code(text: str) -> str:
    """As a code span, which nothing in it can end."""
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")
