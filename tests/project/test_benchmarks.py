"""The benchmarks' own code: goals that are missed are told, the plots are drawn. The figures are not tested."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import claims
from benchmarks.material import Root
from benchmarks.plots import draw
from benchmarks.screens import dependencies
from entropylong.verification.measuring import PairReading
from entropylong.verification.rules.base import Rule

Line = dict[str, Any]


def results(**changed: float) -> list[Line]:
    machine = {"machine": "a machine", "unit": "s", "pairs": 5}
    curve = [
        {"min_gain": g, "saving_all": s, "recall_specific": r, "recall_low_specific": r - 0.1}
        for g, s, r in ((0.0, -0.1, 1.0), (0.2, 0.35, 0.97))
    ]
    lines: list[Line] = [
        {"name": "scoring", "ours": 1.0, "naive": 3.2, "ratio": 3.2, "largest_dH": 1e-4},
        {"name": "verification_all", "ours": 1.0, "ratio": 15.0, "m": 6.0, "cells": 228, "agreement": 1.0},
        {"name": "verification_retrieved", "ours": 1.0, "ratio": 3.7, "m": 1.5},
        {"name": "embedding", "ours": 1.0, "ratio": 1.6},
        {
            "name": "screen_left_window",
            "ours": 1.0,
            "ratio": 1.6,
            "min_gain": 0.2,
            "window": 128,
            "positives_specific": 9,
            "curve": curve,
        },
        {"name": "packing", "ours": 1.0, "ratio": 12.0, "bytes_a_token_ours": 6.6},
        {"name": "arrow_jvm_share", "ours": 0.03, "ratio": None},
        {"name": "feed", "ours": 0.02, "ratio": 400.0},
        {"name": "data_wait", "ours": 0.001, "ratio": None},
        {"name": "loss_memory", "ours": 500, "ratio": 5.0},
        {"name": "loss", "ours": 1.0, "ratio": 0.9},
    ]
    for name in ("scoring", "verification", "embedding"):
        lines += [{"name": f"{name}_growth", "ours": 1.1 * size, "size": size} for size in (1, 2, 4, 8)]
    for line in lines:
        line |= machine
        if line["name"] in changed:
            line["ratio" if line.get("ratio") else "ours"] = changed[line["name"]]
    return lines


def test_all_goals_reached() -> None:
    assert all(claim.reached for claim in claims(results()))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"scoring": 2.9}, "scoring"),
        ({"verification_all": 7.9}, "verification, scope all (m = 6.00)"),
        ({"verification_retrieved": 2.2}, "verification, scope retrieved (m = 1.50)"),
        ({"feed": 9.0}, "feed of 131,072 tokens a row, against a step's need"),
        ({"data_wait": 0.02}, "waiting for data, share of a step"),
        ({"loss_memory": 1.5}, "memory of the loss, in blocks"),
        ({"packing": 9.9}, "packing, CPU seconds a token"),
        ({"arrow_jvm_share": 0.06}, "Arrow and JVM, share of slot time"),
    ],
)
def test_a_missed_goal_is_told(changed: dict[str, float], name: str) -> None:
    assert [claim.name for claim in claims(results(**changed)) if not claim.reached] == [name]


def test_plots_are_drawn(tmp_path: Path) -> None:
    files = draw(results(), tmp_path)
    assert [path.name for path in files] == ["ratios.png", "growth.png", "screen.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_claim_b_takes_noverify_by_rank_then_score_and_cells_of_its_own_export(tmp_path: Path) -> None:
    claim = importlib.import_module("benchmarks.claim")
    cells = [["r", chunk, 40, rank, score, 3.0, False, 0.1] for chunk, rank, score in ((1, 1, 0.2), (2, 1, 0.9), (1, 2, 0.99))]
    _, ranks, _ = claim.sorted_out(cells)
    assert sorted(ranks["r"], key=ranks["r"].get) == [2, 1] and ranks["r"][1] == (1, -0.2)
    names = set()
    for content in ("one", "other"):
        (tmp_path / "export").write_text(content)
        names.add(claim.cells_of(tmp_path / "export"))
    assert len(names) == 2


def test_dependencies_are_what_the_rule_accepts() -> None:
    """Chunk 7 halves H at both anchors, but only anchor 40 retrieved it; chunk 8 does nothing for the anchor that did."""
    entropy = np.full(60, 4.0, np.float32)
    root = Root(np.zeros(60, np.int32), entropy, entropy, [40, 50], {40: [7], 50: [8]})
    half, same = np.full(2, 2.0, np.float32), np.full(2, 4.0, np.float32)
    copies = np.zeros(2, np.int32)
    readings = {7: PairReading(half, half, copies), 8: PairReading(same, same, copies)}
    rule = Rule("paper", epsilon=0.4, min_excess=0.2, min_nll_drop=0.69, max_copy_tokens=24)
    assert dependencies(root, readings, rule) == {7}
    assert [pair.positions.tolist() for pair in root.pairs([np.zeros(3, np.int32)] * 9, "retrieved")] == [[40], [50]]
