"""Stage 3's fast paths against one pass a pair, and the plan of what to share against what it would cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylong.entropy.engine import entropy_at
from entropylong.models.causal_lm import CausalLM
from entropylong.models.shape import KNOWN, ModelShape, shape_of
from entropylong.verification import measuring
from entropylong.verification.copying import copy_lengths
from entropylong.verification.measuring import Pair, measure
from entropylong.verification.reuse import LEAST_SAVING, decide, is_worthwhile, shared_cost, whole_cost
from tests import tiny

pytestmark = pytest.mark.runtime

LLAMA = KNOWN["meta-llama/Meta-Llama-3-8B"]


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> CausalLM:
    return CausalLM(tiny_lm, document_start_id=0, device="cpu")


def slow(model: CausalLM, pair: Pair, separator: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One unbatched pass over the whole of [start; C; separator; D]."""
    front = [0, *pair.chunk_ids.tolist(), *(separator if len(pair.chunk_ids) else [])]
    ids = np.array([*front, *pair.root_ids.tolist()], np.int32)
    (reading,) = entropy_at(model, [ids], [pair.positions + np.int32(len(front))], batch_tokens=1)
    return reading.entropy, reading.nll


@settings(max_examples=20, deadline=None)
@given(data=st.data(), reuse=st.booleans(), budget=st.integers(1, 900))
def test_any_way_of_measuring_reads_the_same(tiny_lm: Path, data: st.DataObject, reuse: bool, budget: int) -> None:
    model = _models.setdefault(tiny_lm, CausalLM(tiny_lm, document_start_id=0, device="cpu"))
    text = model.encode(3 * tiny.TEXT)
    cut = st.integers(0, 60).flatmap(lambda a: st.integers(a, a + 60).map(lambda b: np.array(text[a:b], np.int32)))
    chunks = data.draw(st.lists(cut, min_size=1, max_size=3))
    pairs = []
    for chunk in chunks:
        for tag in range(data.draw(st.integers(1, 4))):
            root = np.array(text[tag : tag + data.draw(st.integers(2, 70))], np.int32)
            positions = data.draw(st.lists(st.integers(0, len(root) - 1), min_size=1, max_size=4, unique=True))
            pairs.append(Pair(root, chunk, np.array(sorted(positions), np.int32), len(pairs)))
    separator = model.encode("\n\n")
    readings = {pair.tag: r for pair, r in measure(model, pairs, separator_ids=separator, batch_tokens=budget, reuse=reuse)}
    assert sorted(readings) == list(range(len(pairs)))
    for pair in pairs:
        entropy, nll = slow(model, pair, separator)
        assert np.abs(readings[pair.tag].entropy_with - entropy).max() < 1e-4
        assert np.abs(readings[pair.tag].nll_with - nll).max() < 1e-4
        assert np.array_equal(readings[pair.tag].copy_len, copy_lengths(pair.chunk_ids, pair.root_ids, pair.positions))


_models: dict[Path, CausalLM] = {}


def test_keys_and_values_are_computed_once_a_chunk(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    text = np.array(model.encode(3 * tiny.TEXT), np.int32)
    pairs = [Pair(text[n : n + 20], text[:100], np.array([19], np.int32)) for n in range(12)]
    plain = [r for _, r in measure(model, pairs, separator_ids=[], batch_tokens=400)]
    shared: list[int] = []
    compute = model.keys_values
    monkeypatch.setattr(model, "keys_values", lambda ids: shared.append(len(ids)) or compute(ids))
    monkeypatch.setattr(measuring, "GROUP", 5)
    again = [r for _, r in measure(model, pairs, separator_ids=[], batch_tokens=400, reuse=True)]
    assert shared == [100, 100, 100], "once for each group of at most 5 roots"
    assert max(np.abs(a.entropy_with - b.entropy_with).max() for a, b in zip(plain, again, strict=True)) < 1e-4


sizes = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 1024), st.integers(1, 4096)), min_size=1, max_size=6)


@given(chunks=sizes)
def test_sharing_is_decided_by_what_it_saves(chunks: list[tuple[int, float, float]]) -> None:
    decision = decide(LLAMA, chunks)
    assert decision.reuse == (decision.saving > LEAST_SAVING) and 0 <= decision.saving < 1
    if all(pairs == 1 for pairs, _, _ in chunks):
        assert decision.saving == 0.0
    for pairs, chunk, root in chunks:
        if is_worthwhile(LLAMA, chunk, pairs, root):
            assert shared_cost(LLAMA, chunk, pairs, root) < 0.85 * pairs * whole_cost(LLAMA, chunk, root)


def test_decision_at_the_scales_of_the_design() -> None:
    paper = decide(LLAMA, [(1, 1024, 3500)] * 9 + [(2, 1024, 3500)])
    assert not paper.reuse and str(paper).startswith("keys and values of a chunk are not shared: 1.10 pairs a chunk")
    everything = decide(LLAMA, [(300, 1024, 900)] * 10)
    assert everything.reuse and everything.saving > 0.4 and "are shared: 300.00 pairs a chunk" in str(everything)
    assert decide(LLAMA, []).saving == 0.0


def test_shapes(tiny_lm: Path) -> None:
    assert LLAMA.body_parameters == 32 * (4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    # Published: 8.03e9 parameters in all, two embeddings of 128,256 x 4,096 among them.
    assert LLAMA.body_parameters + 2 * 128256 * 4096 == pytest.approx(8.03e9, rel=1e-3)
    assert KNOWN["HuggingFaceTB/SmolLM2-135M"].body_parameters + 49152 * 576 == pytest.approx(134.5e6, rel=1e-3)
    tiny_shape = shape_of(tiny_lm)
    assert tiny_shape == ModelShape(2, 32, 4, 2, 8, 64, tiny_shape.vocabulary, 3)
    model = CausalLM(tiny_lm, document_start_id=0, device="cpu")
    matrices = sum(p.numel() for n, p in model.body.named_parameters() if p.dim() == 2 and "embed" not in n)
    assert tiny_shape.body_parameters == matrices
    n = 1000.0
    assert LLAMA.flops(n, n * n / 2) == pytest.approx(2 * LLAMA.body_parameters * LLAMA.weight(n, n * n / 2))
