"""The scoring engine's fast paths against slow, obvious references: packed layers, blocks, prefixes, memory that runs out."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entropylong.entropy import engine
from entropylong.entropy.engine import Request, entropy_at, read_batch, read_stream
from entropylong.entropy.head import entropy_rows
from entropylong.errors import ModelError
from entropylong.models import linear
from entropylong.models.causal_lm import CausalLM
from entropylong.utils.prefetch import prefetch
from tests import tiny


@pytest.fixture
def model(tiny_lm: Path) -> CausalLM:
    return CausalLM(tiny_lm, document_start_id=0, device="cpu")


def requests(model: CausalLM, count: int) -> list[Request]:
    ids = np.array([0, *model.encode(3 * tiny.TEXT)], np.int32)
    return [Request(ids[: 9 + 5 * n], np.arange(1, 9 + 5 * n, 1 + n % 3, dtype=np.int32), n) for n in range(count)]


def read(model: CausalLM, batch: list[Request], budget: int) -> list[engine.Reading]:
    return entropy_at(model, [r.ids for r in batch], [r.positions for r in batch], batch_tokens=budget)


def assert_same(some: list[engine.Reading], others: list[engine.Reading]) -> None:
    for one, other in zip(some, others, strict=True):
        assert np.abs(one.entropy - other.entropy).max() < 1e-4
        assert np.abs(one.nll - other.nll).max() < 1e-4


@given(rows=st.integers(1, 9), vocabulary=st.integers(2, 40), scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]), seed=st.integers(0, 99))
def test_head_equals_float64(rows: int, vocabulary: int, scale: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, vocabulary, generator=random)
    targets = torch.randint(0, vocabulary, (rows,), generator=random)
    entropy, nll = entropy_rows(logits, targets, torch.clone, vocabulary)
    log_p = torch.log_softmax(logits.double(), 1)
    terms = torch.where(log_p.exp() > 0, log_p.exp() * log_p, 0.0)
    assert torch.allclose(entropy.double(), -terms.sum(1), atol=1e-3)
    assert torch.allclose(nll.double(), -log_p.gather(1, targets[:, None])[:, 0], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 3])
def test_head_never_hides_what_is_not_finite(bad: float, at: int) -> None:
    logits = torch.randn(2, 6)
    logits[1, at] = bad
    entropy, nll = entropy_rows(logits, torch.tensor([3, 3]), torch.clone, 6)
    assert entropy[0].isfinite() and nll[0].isfinite() and not (entropy[1].isfinite() and nll[1].isfinite())


@pytest.mark.e2e
def test_head_needs_less_than_a_gigabyte_at_any_size() -> None:
    """8,192 rows of 128,256 logits are 4.2 GB: their entropy must come out of a process that never held one."""
    code = """
        import resource, torch
        from entropylong.entropy.head import entropy_rows
        torch.set_num_threads(2)
        hidden, weight = torch.randn(8192, 4), torch.randn(128256, 4)
        logits = lambda h: torch.nn.functional.linear(h, weight)
        with torch.inference_mode():
            entropy_rows(hidden[:8], torch.zeros(8, dtype=torch.long), logits, 128256)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            entropy_rows(hidden, torch.zeros(8192, dtype=torch.long), logits, 128256)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1e9


@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_equal_torchs(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "is_worthwhile", lambda weight: True)
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(96, 80, bias), torch.nn.SiLU(), torch.nn.Sequential(torch.nn.Linear(80, 33, bias)))
    x = torch.randn(3, 17, 96)
    with torch.inference_mode():
        plain = module(x)
        assert linear.pack_linears(module) == 2
        assert torch.allclose(module(x), plain, atol=1e-5)


def test_packing_is_tried_only_where_it_can_serve() -> None:
    assert not linear.is_worthwhile(torch.zeros(512, 512, dtype=torch.bfloat16))
    assert not linear.is_worthwhile(torch.zeros(8, 8))
    assert linear.is_worthwhile(torch.randn(600, 600)) == linear._trial(600, 600, torch.get_num_threads())


def test_packed_model_reads_the_same(model: CausalLM, tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = requests(model, 6)
    monkeypatch.setattr(linear, "is_worthwhile", lambda weight: True)
    packed = CausalLM(tiny_lm, document_start_id=0, device="cpu")
    assert any(isinstance(m, linear.PackedLinear) for m in packed.body.modules())
    assert_same(read(packed, batch, 100), read(model, batch, 100))


class Cramped:
    """A device on which a batch of more than `most` padded tokens runs out of memory, as torch says it."""

    def __init__(self, body: Any, most: int, error: BaseException) -> None:
        self.body, self.most, self.error = body, most, error
        self.passes: list[int] = []

    def __call__(self, input_ids: torch.Tensor, **rest: Any) -> Any:
        self.passes.append(input_ids.numel())
        if input_ids.numel() > self.most:
            raise self.error
        return self.body(input_ids=input_ids, **rest)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_budget_and_goes_on(model: CausalLM, error: BaseException) -> None:
    batch = requests(model, 12)
    plain = read(model, batch, 1000)
    model.body = cramped = Cramped(model.body, 100, error)
    assert_same(read(model, batch, 1000), plain)
    assert model.token_limit < 200
    cramped.passes.clear()
    assert_same(read(model, batch, 1000), plain)
    assert max(cramped.passes) <= 2 * cramped.most, "the budget that was found is kept"


def test_one_sequence_too_large_is_one_line(model: CausalLM) -> None:
    model.body = Cramped(model.body, 10, OUT_OF_MEMORY[0])
    with pytest.raises(ModelError, match=r"alone does not fit the memory of cpu; lower roots\.max_tokens"):
        read(model, requests(model, 3), 1000)


def test_other_errors_are_not_taken_for_memory(model: CausalLM) -> None:
    limit = model.token_limit
    model.body = Cramped(model.body, 10, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    short, *longer = read(model, requests(model, 3), 1000)
    assert not short.failure and np.isfinite(short.entropy).all()
    assert all("RuntimeError: mat1 and mat2 shapes" in reading.failure for reading in longer)
    assert model.token_limit == limit


@pytest.mark.parametrize("shared", [1, 7, 24])
def test_reading_after_a_prefix_equals_reading_it_all(model: CausalLM, shared: int) -> None:
    ids = np.array([0, *model.encode(3 * tiny.TEXT)], np.int32)
    whole = [Request(ids[: 50 + n], np.array([shared + 1, 49], np.int32) + n, n) for n in (0, 3, 9)]
    after = model.keys_values(ids[:shared])
    rest = [Request(r.ids[shared:], r.positions - np.int32(shared), r.tag) for r in whole]
    got = [reading for _, reading in read_batch(model, rest, after)]
    assert_same(got, read(model, whole, 1000))


def test_the_stream_holds_a_bounded_buffer(model: CausalLM) -> None:
    count = 0

    def endless() -> Iterator[Request]:
        nonlocal count
        while True:
            count += 1
            yield Request(np.zeros(20, np.int32), np.array([19], np.int32), count)

    stream = read_stream(model, endless(), batch_tokens=40)
    for _ in range(5):
        next(stream)
    assert count == engine.BUFFER_BATCHES * 40 // 20


def test_prefetch_keeps_order_and_raises_in_place() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("poison")

    values = []
    with pytest.raises(ValueError, match="poison"):
        values.extend(prefetch(items(), ahead=2))
    assert values == [] or values == [0, 1, 2, 3, 4]
    assert list(prefetch(iter("abc"))) == ["a", "b", "c"] and list(prefetch(iter(()))) == []


def test_prefetch_ends_with_its_reader() -> None:
    calls: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            calls.append(1)
            yield len(calls)

    reader = prefetch(endless(), ahead=3)
    assert [next(reader), next(reader)] == [1, 2]
    reader.close()
    assert len(calls) <= 8 and not any(t.name == "prefetch" and t.is_alive() for t in threading.enumerate())
