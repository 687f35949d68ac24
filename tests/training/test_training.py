"""The training step is the plain one, however it is cut: sequence parallel, sharded, in blocks. CPU, gloo, a tiny random Llama."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from entropylong.config import load_config
from entropylong.errors import ConfigError, ModelError, SetupError
from entropylong.models.attention_mask import check_kernel, segmented, varlen
from entropylong.training.describe import describe, description_table
from entropylong.training.export import write_weights
from entropylong.training.launch import check_cluster
from entropylong.training.loss import IGNORED, blockwise_cross_entropy, shifted_labels
from entropylong.training.model import Batch, TrainingModel, check_trainable, gradients, layers_of, load_for_training
from entropylong.training.rope import check_rope, with_rope_base
from entropylong.training.settings import check_ranks
from entropylong.training.ulysses import NAME, Ulysses
from tests.ranks import CLIP, LENGTH, MOST, SEQUENCES, batch, options

ROOT = Path(__file__).parents[2]


Step = dict[str, Any]


def _obvious(tiny_lm: Path, is_plain: bool) -> Step:
    """The same step the obvious way: transformers' own attention, all logits, one process; a pass for each segment."""
    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32, attn_implementation="eager")
    ids, mask = batch()
    drops, segments = options()
    total, counted = torch.zeros(()), 0
    for row in range(SEQUENCES):
        bounds = (
            [0, LENGTH] if is_plain else [0, *(n for n in range(1, LENGTH) if segments[row, n] != segments[row, n - 1]), LENGTH]
        )
        logits = torch.cat([model(ids[row : row + 1, a:b]).logits[0] for a, b in pairwise(bounds)])
        for n in range(1, LENGTH):
            if mask[row, n]:
                drop = float(drops[row, n])
                weight = 1.0 if is_plain or drop == 0 else min(math.exp(drop), MOST)
                total = total + weight * F.cross_entropy(logits[n - 1], ids[row, n])
                counted += 1
    loss = total / counted
    loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    clipped = {name: p.grad for name, p in model.named_parameters()}
    return {"loss": loss.detach(), "count": counted, "gradients": whole, "norm": norm, "clipped": clipped}


@pytest.fixture(scope="module")
def obvious(tiny_lm: Path) -> dict[str, Step]:
    return {"plain": _obvious(tiny_lm, True), "options": _obvious(tiny_lm, False)}


def _same(actual: Step, expected: Step) -> None:
    assert actual["count"] == expected["count"]
    torch.testing.assert_close(actual["loss"], expected["loss"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual["norm"], expected["norm"], rtol=1e-4, atol=1e-5)
    assert expected["norm"] > CLIP, "clipping is active"
    for part in ("gradients", "clipped"):
        assert actual[part].keys() == expected[part].keys()
        for name, gradient in expected[part].items():
            torch.testing.assert_close(actual[part][name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def cuts(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the step on 1, 2 and 4 ranks."""
    folder = tmp_path_factory.mktemp("cuts")
    command = [sys.executable, "-m", "tests.ranks", str(tiny_lm), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.e2e
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_loss_and_gradients_at_any_cut(ranks: int, obvious: dict[str, Step], cuts: Path) -> None:
    """Two key heads on four sequence ranks: they are repeated. Masks are unequal, a rank may have nothing that counts.

    Also with attention in segments, weights on anchors and activations in the host's memory.
    """
    by_sp = torch.load(cuts / f"{ranks}.pt", weights_only=True)
    assert list(by_sp) == [sp for sp in (1, 2, 4) if sp <= ranks]
    for at_sp in by_sp.values():
        for name, expected in obvious.items():
            _same(at_sp[name], expected)


def test_compiled_layers_give_the_same_step(tiny_lm: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_lm)
    config.num_hidden_layers = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    ids, mask = batch()
    ulysses, steps = Ulysses(None), []
    for compiled in (False, True):
        model = load_for_training(tmp_path, rope_base=None, length=LENGTH, block=24, checkpointing=False, compiled=compiled)
        assert all((layer._compiled_call_impl is not None) == compiled for layer in layers_of(model.lm))
        loss, _ = gradients(model, Batch(ids[:1], shifted_labels(ids, mask)[:1]), ulysses, ranks=1)
        steps.append([loss, *(p.grad for p in model.lm.parameters())])
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_131072_tokens_without_a_tensor_of_length_by_vocabulary(tiny_lm: Path) -> None:
    """Forward and backward through a layer 32 wide. The largest tensor is a block of logits or the feed-forward's, not [T, V]."""
    length, block, vocabulary = 131_072, 3_072, 4_096
    config = AutoConfig.from_pretrained(tiny_lm)
    config.num_hidden_layers, config.vocab_size = 1, vocabulary
    # One head: minutes otherwise, all of them in the exponentials of attention.
    config.num_attention_heads = config.num_key_value_heads = 1
    config.head_dim = 8
    config = with_rope_base(config, 2e8, length)
    ulysses = Ulysses(None)
    lm = AutoModelForCausalLM.from_config(config, attn_implementation=NAME)
    check_rope(lm)
    model = TrainingModel(lm, block).train()
    ids = torch.randint(2, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    whole = Batch(ids, shifted_labels(ids, torch.ones_like(ids)))
    with _Largest() as largest:
        loss, count = gradients(model, whole, ulysses, ranks=1)
    assert count == length - 1 and torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lm.parameters())
    assert largest.elements == max(block * vocabulary, length * 64) < length * vocabulary / 32


def test_blocks_give_the_whole_loss_and_gradient() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    labels = torch.randint(0, 30, (50,))
    labels[[3, 17, 49]] = IGNORED
    whole = F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="sum")
    expected = torch.autograd.grad(whole, (hidden, weight))
    for block in (1, 7, 50, 64):
        loss = blockwise_cross_entropy(hidden, labels, lambda h: h @ weight.T, block)
        torch.testing.assert_close(loss, whole)
        for one, other in zip(torch.autograd.grad(loss, (hidden, weight)), expected, strict=True):
            torch.testing.assert_close(one, other)
    nothing = blockwise_cross_entropy(hidden, torch.full((50,), IGNORED), lambda h: h @ weight.T, 7)
    assert nothing == 0 and not torch.autograd.grad(nothing, hidden)[0].any()


def test_labels_are_shifted_before_the_cut() -> None:
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 1, 0, 1]])
    assert shifted_labels(ids, mask).tolist() == [[6, IGNORED, 8, IGNORED]]


@pytest.mark.parametrize("base", [None, 5e5, 2e8])
def test_rope_base_is_transformers_own(base: float | None, tiny_lm: Path) -> None:
    """The same logits as a model that was configured so from the start."""
    reference = LlamaConfig.from_pretrained(tiny_lm)
    config = with_rope_base(AutoConfig.from_pretrained(tiny_lm), base, 4096)
    ours = AutoModelForCausalLM.from_pretrained(tiny_lm, config=config, dtype=torch.float32)
    if base is not None:
        reference = LlamaConfig(**{**reference.to_dict(), "rope_parameters": {"rope_type": "default", "rope_theta": base}})
    theirs = LlamaForCausalLM(reference)
    theirs.load_state_dict(ours.state_dict())
    check_rope(ours)
    ids, positions = torch.arange(2, 34)[None], torch.arange(4000, 4032)[None]
    torch.testing.assert_close(ours(ids, position_ids=positions).logits, theirs(ids, position_ids=positions).logits)
    assert ours.config.max_position_embeddings == 4096


@pytest.mark.model
def test_a_rounded_or_uninitialised_rope_is_found(tiny_lm: Path) -> None:
    config = with_rope_base(AutoConfig.from_pretrained(tiny_lm), 2e8, 4096)
    for spoil in (lambda m: m.to(torch.bfloat16), lambda m: m.model.rotary_emb.inv_freq.uniform_()):
        model = LlamaForCausalLM(config)
        check_rope(model)
        spoil(model)
        with pytest.raises(ModelError, match="not the float32 frequencies of base 2e\\+08"):
            check_rope(model)


@pytest.mark.parametrize(
    ("ranks", "sp", "batch_size", "message"),
    [
        (4, 3, 8, r"3 ranks must divide the 4 attention heads and the 64 tokens of a sequence; take one of \[1, 2, 4\]"),
        (3, 2, 8, "2 does not divide 3 ranks"),
        (6, 1, 8, r"6 ranks, 1 to a sequence, do not divide a batch of 8 sequences; take one of \[1, 2, 4, 8\]"),
        (6, 2, 4, r"take one of \[2, 4, 8\]"),
    ],
)
def test_ranks_that_cannot_share_the_work(ranks: int, sp: int, batch_size: int, message: str) -> None:
    check_ranks(4, 2, 8, 64, 4)
    with pytest.raises(ConfigError, match=message):
        check_ranks(ranks, sp, batch_size, 64, 4)


def test_the_kernel_of_a_gpu_is_refused_without_one() -> None:
    check_kernel("sdpa", torch.device("cpu"), "float32")
    with pytest.raises(ConfigError, match="varlen needs CUDA and bfloat16"):
        check_kernel("varlen", torch.device("cpu"), "bfloat16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.nn.attention.varlen runs on CUDA alone")
def test_varlen_is_segmented_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, 256, 64, device="cuda", dtype=torch.bfloat16) for h in (8, 2, 2))
    bounds = ((0, 100), (100, 101), (101, 256))
    torch.testing.assert_close(varlen(q, k, v, bounds, None), segmented(q, k, v, bounds, None, 0.0), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(), ""),
        (Qwen2Config(), ""),
        (MistralConfig(sliding_window=None), ""),
        (MistralConfig(sliding_window=4096), "sliding"),
        (Gemma2Config(), "attn_logit_softcapping 50.0, final_logit_softcapping 30.0, layers of sliding_attention"),
        (GraniteConfig(logits_scaling=8.0), "logits_scaling 8.0"),
        (CohereConfig(), "logit_scale 0.0625"),
    ],
)
def test_a_model_that_would_be_another_one_is_refused(config: PreTrainedConfig, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with nullcontext() if not message else pytest.raises(ModelError, match=message):
        check_trainable(tmp_path)


def test_executors_that_would_not_run_all_ranks_on_gpus() -> None:
    gpus = {"spark.executor.resource.gpu.amount": "4", "spark.task.resource.gpu.amount": "1"}
    check_cluster({}, 8, 8)
    check_cluster(gpus, 8, 8)
    for amount in ("4", "0.25"):
        with pytest.raises(SetupError, match=f"gpu.amount is {amount}; start Spark with it at 1"):
            check_cluster({**gpus, "spark.task.resource.gpu.amount": amount}, 8, 8)
    with pytest.raises(SetupError, match=r"gpu\.amount is 0"):
        check_cluster({"spark.executor.resource.gpu.amount": "4"}, 8, 8)
    with pytest.raises(SetupError, match="8 ranks run at once, the executors have room for 4 tasks"):
        check_cluster({}, 4, 8)
    check_cluster({"spark.dynamicAllocation.enabled": "true"}, 4, 8)


def test_a_description_is_arithmetic() -> None:
    """The published run: 16 bytes a parameter over 8 ranks, 4.19M tokens a step, 148 GFLOP a token. Norms are not counted."""
    config = load_config("train_128k")
    plan = describe(config)
    assert (plan.parameters, plan.data_parallel, plan.accumulation, plan.warmup) == (8_030_261_248 - 65 * 4096, 4, 8, 200)
    assert plan.tokens == 1000 * 32 * 131_072 and 147e9 < plan.flops_a_token < 149e9
    assert next(iter(plan.memory.values())) == 2 * plan.parameters
    assert plan.hours == pytest.approx(plan.tokens * plan.flops_a_token / (0.3 * 989e12 * 8) / 3600)
    offloaded = describe(load_config("train_128k", ["train.offload_activations=true"]))
    assert offloaded.host == 32 * 65_536 * 4096 * 2 == plan.memory["activations"] - offloaded.memory["activations"]
    text = Console(width=200, record=True, file=StringIO())
    text.print(description_table(plan, config))
    assert "memory of a GPU" in text.export_text() and f"{plan.hours:,.1f}" in text.file.getvalue()


def test_a_model_of_several_shards_is_read_whole(tiny_lm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_lm, tmp_path / "model"))
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_weights(whole, folder, shard="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    read = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(read[name], value) for name, value in whole.items())
