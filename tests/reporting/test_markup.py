"""Ids, details and paths are whoever's who made them: in tables for people nothing of them is taken for markup."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console, RenderableType

from entropylong.maintenance.quarantine import quarantine_table
from entropylong.reporting.inspect import _heat, _readings_table
from entropylong.reporting.status import status_table

TEXT = "a[bold]b[/]c[/nothing]"


def printed(content: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(content)
    return out.getvalue()


def test_quarantine_and_status() -> None:
    row = {"stage": "ingest", "table": "documents", "key": {"doc_id": TEXT}, "code": "NO_TEXT", "detail": TEXT}
    assert printed(quarantine_table([row])).count(TEXT) == 2
    assert printed(quarantine_table([row | {"detail": None}])).count(TEXT) == 1
    assert f"Workspace {TEXT}" in printed(status_table([], TEXT))


class Vocabulary:
    """One that has a whole tag as a token, as those that were trained on code."""

    def decode(self, ids: list[int]) -> str:
        return "[/]"


def test_inspect() -> None:
    scored = {"root_id": TEXT, "input_ids": [0], "entropy": np.zeros(1, "<f4").tobytes()}
    assert TEXT in printed(_heat(Vocabulary(), scored, set()))
    reading = {"position": 0, "entropy": 1.0, "rank": 1, "score": 1.0, "entropy_with": 1.0, "gain": 0.0, "excess_gain": None,
            "nll": 1.0, "nll_with": 1.0, "copy_len": 0, "accepted": False}  # fmt: skip
    table = printed(_readings_table([reading], ["copy"], Vocabulary(), scored))
    assert "'[/]'" in table and "no: copy" in table
