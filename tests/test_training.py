"""The training step is the plain one, however it is cut: sequence parallel, sharded, in blocks. CPU, gloo, a tiny random Llama."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from entropylong.errors import ConfigError, ModelError
from entropylong.training.loss import IGNORED, blockwise_cross_entropy, shifted_labels
from entropylong.training.rope import check_rope, with_rope_base
from entropylong.training.ulysses import Ulysses
from tests.ranks import CLIP, batch

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def plain(tiny_lm: Path) -> dict[str, Any]:
    """The same step the obvious way: transformers' own attention, all logits, one process."""
    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32, attn_implementation="eager")
    ids, mask = batch()
    logits = model(ids).logits[:, :-1].reshape(-1, model.config.vocab_size)
    losses = F.cross_entropy(logits, ids[:, 1:].reshape(-1), reduction="none")
    counted = mask[:, 1:].reshape(-1).bool()
    loss = losses[counted].mean()
    loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    clipped = {name: p.grad for name, p in model.named_parameters()}
    return {"loss": loss.detach(), "count": counted.sum(), "gradients": whole, "norm": norm, "clipped": clipped}


@pytest.mark.parametrize(("ranks", "sp"), [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4)])
def test_loss_and_gradients_at_any_cut(ranks: int, sp: int, plain: dict[str, Any], tiny_lm: Path, tmp_path: Path) -> None:
    """Two key heads on four sequence ranks: they are repeated. Masks are unequal, a rank may have nothing that counts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "tests.ranks"]
    done = subprocess.run(
        [*command, str(tiny_lm), str(tmp_path / "out.pt"), str(sp)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["count"] == plain["count"]
    torch.testing.assert_close(found["loss"], plain["loss"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["norm"], plain["norm"], rtol=1e-4, atol=1e-5)
    assert plain["norm"] > CLIP, "clipping is active"
    for part in ("gradients", "clipped"):
        assert found[part].keys() == plain[part].keys()
        for name, gradient in plain[part].items():
            torch.testing.assert_close(found[part][name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_blocks_give_the_whole_loss_and_gradient() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    labels = torch.randint(0, 30, (50,))
    labels[[3, 17, 49]] = IGNORED
    whole = F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="sum")
    wanted = torch.autograd.grad(whole, (hidden, weight))
    for block in (1, 7, 50, 64):
        loss = blockwise_cross_entropy(hidden, labels, lambda h: h @ weight.T, block)
        torch.testing.assert_close(loss, whole)
        for one, other in zip(torch.autograd.grad(loss, (hidden, weight)), wanted, strict=True):
            torch.testing.assert_close(one, other)
    nothing = blockwise_cross_entropy(hidden, torch.full((50,), IGNORED), lambda h: h @ weight.T, 7)
    assert nothing == 0 and not torch.autograd.grad(nothing, hidden)[0].any()


def test_labels_are_shifted_before_the_cut() -> None:
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 1, 0, 1]])
    assert shifted_labels(ids, mask).tolist() == [[6, IGNORED, 8, IGNORED]]


@pytest.mark.parametrize("base", [None, 5e5, 2e8])
def test_rope_base_is_transformers_own(base: float | None, tiny_lm: Path) -> None:
    """The same logits as a model that was configured so from the start."""
    stated = LlamaConfig.from_pretrained(tiny_lm)
    config = with_rope_base(AutoConfig.from_pretrained(tiny_lm), base, 4096)
    ours = AutoModelForCausalLM.from_pretrained(tiny_lm, config=config, dtype=torch.float32)
    if base is not None:
        stated = LlamaConfig(**{**stated.to_dict(), "rope_parameters": {"rope_type": "default", "rope_theta": base}})
    theirs = LlamaForCausalLM(stated)
    theirs.load_state_dict(ours.state_dict())
    check_rope(ours)
    ids, positions = torch.arange(2, 34)[None], torch.arange(4000, 4032)[None]
    torch.testing.assert_close(ours(ids, position_ids=positions).logits, theirs(ids, position_ids=positions).logits)
    assert ours.config.max_position_embeddings == 4096


def test_a_rounded_or_uninitialised_rope_is_found(tiny_lm: Path) -> None:
    config = with_rope_base(AutoConfig.from_pretrained(tiny_lm), 2e8, 4096)
    for spoil in (lambda m: m.to(torch.bfloat16), lambda m: m.model.rotary_emb.inv_freq.uniform_()):
        model = LlamaForCausalLM(config)
        check_rope(model)
        spoil(model)
        with pytest.raises(ModelError, match="not the float32 frequencies of base 2e\\+08"):
            check_rope(model)


def test_ranks_that_cannot_share_a_sequence() -> None:
    ulysses = Ulysses(None)
    ulysses.check(3, 7)
    ulysses.size = 2
    with pytest.raises(ConfigError, match="2 ranks must divide the 3 attention heads"):
        ulysses.check(3, 8)
