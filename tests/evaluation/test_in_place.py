"""Gain in place: three entropies against single passes of transformers, and on sequences that a workspace has packed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from entropylong.errors import EvaluationError
from entropylong.evaluation.in_place import NAMES, Placed, gain_table, gains_in_place, keep_gains
from entropylong.evaluation.placed import other_chunks, sample_placed
from entropylong.models.cache import load
from entropylong.models.causal_lm import CausalLM
from tests.conftest import OpenRunner


def test_three_entropies_at_an_anchor(tiny_lm: Path) -> None:
    model, lm = CausalLM(tiny_lm, document_start_id=0), LlamaForCausalLM.from_pretrained(tiny_lm)
    rng = np.random.default_rng(0)
    ids = np.concatenate([[0], rng.integers(2, 300, 59)]).astype(np.int32)
    others = [rng.integers(2, 300, n).astype(np.int32) for n in (4, 3)]

    def entropy(read: list[int]) -> float:
        with torch.inference_mode():
            log_p = torch.log_softmax(lm(torch.tensor([read])).logits[0, -1].float(), -1)
        return float(-(log_p.exp() * log_p).sum())

    one, two, three = (
        Placed(str(a), a, root, span, 0.5) for a, root, span in ((45, 40, (1, 9)), (50, 40, (1, 9)), (44, 40, (20, 22)))
    )
    gains = {f.dependency.key: f for f in gains_in_place(model, [(ids, [two, three, one])], others)}
    for dependency in (one, two, three):
        got, (start, end) = gains[dependency.key], dependency.context
        assert got.alone == pytest.approx(entropy([0, *ids[40 : dependency.anchor].tolist()]), abs=1e-4)
        assert got.whole == pytest.approx(entropy(ids[: dependency.anchor].tolist()), abs=1e-4)
        swaps = []
        for first, second in (others, others[::-1]):
            changed = ids.copy()
            changed[start:end] = np.resize(np.concatenate([first, second]), end - start)
            swaps.append(entropy(changed[: dependency.anchor].tolist()))
        assert min(abs(got.without - swap) for swap in swaps) < 1e-4 and abs(swaps[0] - got.whole) > 1e-4
        assert got.gain == pytest.approx(1 - got.whole / got.alone) and got.own == pytest.approx(
            (got.without - got.whole) / got.alone
        )
    with pytest.raises(EvaluationError, match="no other text"):
        gains_in_place(model, [(ids, [one])], [])


def test_of_a_workspace(finished: Path, open_runner: OpenRunner, tmp_path: Path) -> None:
    runner = open_runner(finished)
    rows = runner.state.ok_rows("sequences").collect()
    sequences, chunk_ids, root_ids = sample_placed(runner.state, 10**6)
    placed = [d for _, own in sequences for d in own]
    assert len(placed) == sum(len(row.dependencies) for row in rows) > 0
    few = sample_placed(runner.state, 3)[0]
    assert {d.key for _, own in few for d in own} < {d.key for d in placed}
    reader = runner.state.context.causal_lm
    others = other_chunks(runner.state, reader, chunk_ids, root_ids)
    gains = gains_in_place(load(reader), few, others)
    scored = {r.root_id: r for r in runner.state.ok_rows("scored_documents").collect()}
    for one in gains:
        d, root_id = one.dependency, one.dependency.key.split("/")[1]
        entropy = np.frombuffer(scored[root_id].entropy, "<f4")
        assert one.alone == pytest.approx(float(entropy[d.anchor - d.root]), abs=1e-3), "what Stage 1 read"
        assert one.whole != one.without
    result, table = keep_gains(reader, "abc", gains, 0.4, tmp_path)
    record = json.loads((result.folder / "scores.json").read_text())
    assert record["figures"]["gain.own"] == pytest.approx(np.mean([one.own for one in gains])) and len(NAMES) == len(table)
    assert set(json.loads((result.folder / "items.json").read_text())) == {one.dependency.key for one in gains}
    assert gain_table(table, len(gains)).row_count == len(NAMES)
