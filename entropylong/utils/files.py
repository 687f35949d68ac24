"""Small files that are whole or not there. Pure Python."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file aside and rename it: whoever reads it, after a kill too, finds all of it or what was there before."""
    aside = path.with_name(f"{path.name}.part")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    aside.replace(path)
