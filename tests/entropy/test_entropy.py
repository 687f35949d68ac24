"""Entropy and anchors against slow, obvious references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from entropylong.corpus.roots import doc_id_of
from entropylong.entropy import head
from entropylong.entropy.anchors import find_anchors
from entropylong.entropy.engine import batch_size, by_length, entropy_at
from entropylong.entropy.scoring import Profile, Refusal, score_texts
from entropylong.entropy.word_starts import word_starts
from entropylong.models.causal_lm import CausalLM
from entropylong.verification.measuring import Pair, measure
from tests import tiny

pytestmark = pytest.mark.runtime

TEXTS = [tiny.TEXT[: 40 * n] for n in range(1, 6)] + ["a <|endoftext|> b", "é日本🙂" * 5]


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> CausalLM:
    return CausalLM(tiny_lm, document_start_id=0, device="cpu")


def reference(path: Path, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """H and NLL of ids[1:], from full logits in float64, one sequence at a time."""
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = plain(torch.tensor([ids])).logits[0, :-1].double()
    p = torch.softmax(logits, -1)
    entropy = -(p * torch.log(p)).sum(-1)
    nll = -torch.log(p[torch.arange(len(ids) - 1), torch.tensor(ids[1:])])
    return entropy.numpy(), nll.numpy()


def score(model: CausalLM, texts: list[str], **rule: Any) -> list[Profile | Refusal]:
    """Results in the order of the texts."""
    results = dict(score_texts(model, enumerate(texts), batch_tokens=512, **rule))
    assert len(results) == len(texts)
    return [results[i] for i in range(len(texts))]


def sequences(model: CausalLM) -> list[np.ndarray]:
    return [np.array([0, *model.encode(text)], np.int32) for text in TEXTS]


def test_entropy_equals_float64_of_full_logits(model: CausalLM, tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.BLOCK_BYTES, "cpu", 7 * 4 * model.vocabulary)  # blocks of 7 rows: their seams are tested
    all_ids = sequences(model)
    positions = [np.arange(1, len(s), dtype=np.int32) for s in all_ids]
    for ids, reading in zip(all_ids, entropy_at(model, all_ids, positions), strict=True):
        entropy, nll = reference(tiny_lm, ids.tolist())
        assert np.abs(reading.entropy - entropy).max() < 1e-3
        assert np.abs(reading.nll - nll).max() < 1e-3


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(len(TEXTS))), budget=st.integers(1, 600))
def test_batch_composition_does_not_matter(tiny_lm: Path, order: list[int], budget: int) -> None:
    model = _cached(tiny_lm)
    plain = sequences(model)
    positions = [np.arange(1, len(s), 2, dtype=np.int32) for s in plain]
    alone = [entropy_at(model, [s], [a])[0] for s, a in zip(plain, positions, strict=True)]
    mixed = entropy_at(model, [plain[i] for i in order], [positions[i] for i in order], batch_tokens=budget)
    for i, reading in zip(order, mixed, strict=True):
        assert np.abs(reading.entropy - alone[i].entropy).max() < 1e-4
        assert np.abs(reading.nll - alone[i].nll).max() < 1e-4


_models: dict[Path, CausalLM] = {}


def _cached(path: Path) -> CausalLM:
    return _models.setdefault(path, CausalLM(path, document_start_id=0, device="cpu"))


@given(lengths=st.lists(st.integers(0, 50), max_size=30), budget=st.integers(1, 120))
def test_batches_cover_and_respect_the_budget(lengths: list[int], budget: int) -> None:
    waiting, batches = by_length(lengths), []
    while waiting:
        size = batch_size([lengths[i] for i in waiting], budget)
        batches.append(waiting[:size])
        waiting = waiting[size:]
    assert sorted(i for b in batches for i in b) == [i for i, n in enumerate(lengths) if n]
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


def test_empty_context_gives_the_baseline(model: CausalLM) -> None:
    ids = np.array(model.encode(tiny.TEXT), np.int32)
    positions = np.array([0, 5, 17, len(ids) - 1], np.int32)
    pair = Pair(ids, np.zeros(0, np.int32), positions)
    ((_, with_nothing),) = measure(model, [pair], separator_ids=model.encode("\n\n"), batch_tokens=512)
    (scored,) = score(model, [tiny.TEXT], min_tokens=1, max_tokens=4096, long="truncate")
    assert isinstance(scored, Profile)
    assert np.abs(with_nothing.entropy_with - scored.entropy[positions]).max() < 1e-3
    assert np.abs(with_nothing.nll_with - scored.nll[positions]).max() < 1e-3


def test_special_token_text_is_text(model: CausalLM) -> None:
    ids = model.encode("a <|endoftext|> b <|pad|>")
    assert 0 not in ids and 1 not in ids and model.tokenizer.decode(ids) == "a <|endoftext|> b <|pad|>"


def test_scoring_refuses_by_rule_and_by_damage(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"min_tokens": 3, "max_tokens": 20}
    short, cut = score(model, ["a", tiny.TEXT], long="truncate", **rule)
    assert isinstance(short, Refusal) and (short.outcome, short.code) == ("skipped", "TOO_SHORT")
    assert isinstance(cut, Profile) and len(cut.ids) == len(cut.entropy) == len(cut.nll) == 20
    (skipped,) = score(model, [tiny.TEXT], long="skip", **rule)
    assert isinstance(skipped, Refusal) and skipped.code == "TOO_LONG"
    broken = CausalLM(model.path, document_start_id=0, device="cpu")
    plain = broken.logits
    monkeypatch.setattr(broken, "logits", lambda hidden: plain(hidden).index_fill(1, torch.tensor([5]), float("nan")))
    (damaged,) = score(broken, [tiny.TEXT], long="truncate", **rule)
    assert isinstance(damaged, Refusal) and (damaged.outcome, damaged.code) == ("error", "NON_FINITE")


def test_long_texts_are_split_into_equal_pieces(model: CausalLM) -> None:
    rule = {"min_tokens": 3, "max_tokens": 20, "long": "split", "batch_tokens": 512}
    results = dict(score_texts(model, [("doc", tiny.TEXT), ("a#1", "of the window"), ("b", "of the window"), ("c#2", "a")], **rule))
    whole = model.encode(tiny.TEXT)
    pieces = [results[f"doc#{n}"] for n in range(-(-len(whole) // 20))]
    assert len(results) == len(pieces) + 3 and all(isinstance(piece, Profile) for piece in pieces)
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == whole
    lengths = [len(piece.ids) for piece in pieces]
    assert max(lengths) <= 20 and max(lengths) - min(lengths) <= 1
    # An id that looks like a piece's is told from one: no two roots share an id, and each names its document.
    assert isinstance(results["a#1#0"], Profile) and isinstance(results["b"], Profile) and isinstance(results["c#2#0"], Refusal)
    assert {doc_id_of(root, "split") for root in results} == {"doc", "a#1", "b", "c#2"}
    assert doc_id_of("a#1", "truncate") == "a#1"
    (alone,) = score(model, [model.tokenizer.decode(pieces[1].ids)], min_tokens=1, max_tokens=99, long="truncate")
    assert isinstance(alone, Profile) and np.abs(alone.entropy - pieces[1].entropy).max() < 1e-3


def test_model_without_start_token_has_no_entropy_at_zero(model: CausalLM) -> None:
    bare = CausalLM(model.path, document_start_id=0, device="cpu")
    bare.prefix = []
    (scored,) = score(bare, [tiny.TEXT], min_tokens=2, max_tokens=50, long="truncate")
    assert isinstance(scored, Profile) and np.isnan(scored.entropy[0]) and np.isfinite(scored.entropy[1:]).all()
    assert 0 not in find_anchors(scored.entropy, alpha=-9, min_position=0).positions


entropies = st.lists(st.floats(0, 12, width=32), min_size=0, max_size=80)


@given(values=entropies, alpha=st.floats(-1, 3), low=st.integers(0, 40))
def test_anchors_are_strictly_above_tau(values: list[float], alpha: float, low: int) -> None:
    h = np.array(values, np.float32)
    anchors = find_anchors(h, alpha=alpha, min_position=low)
    body = h[low:].astype(np.float64)
    if len(body) < 2 or body.std() == 0:
        assert len(anchors.positions) == 0
    else:
        tau = body.mean() + alpha * body.std()
        assert anchors.positions.tolist() == [t for t in range(low, len(h)) if float(h[t]) > tau]


@given(values=entropies, gap=st.integers(1, 9), most=st.integers(1, 6))
def test_suppression_keeps_the_highest(values: list[float], gap: int, most: int) -> None:
    h = np.array(values, np.float32)
    every = find_anchors(h, alpha=0.0, min_position=0).positions.tolist()
    positions = find_anchors(h, alpha=0.0, min_position=0, min_gap=gap, max_per_root=most).positions.tolist()
    slow: list[int] = []
    for t in sorted(every, key=lambda t: (-h[t], t)):
        if len(slow) < most and all(abs(t - s) >= gap for s in slow):
            slow.append(t)
    assert positions == sorted(slow)


def test_nan_profile_has_no_anchor() -> None:
    assert len(find_anchors(np.full(9, np.nan, np.float32), alpha=1, min_position=0).positions) == 0


def test_word_starts(model: CausalLM) -> None:
    ids = model.encode("The function\nreturns (a) window.")
    starts = word_starts(model.tokenizer, ids)
    words = [model.tokenizer.decode([i]) for i, start in zip(ids, starts, strict=True) if start]
    assert [w.strip()[0] for w in words][:3] == ["T", "f", "r"]
    assert not starts[next(i for i, t in enumerate(ids) if model.tokenizer.decode([t]) == ".")]
