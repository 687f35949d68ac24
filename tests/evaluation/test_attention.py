"""Where the last token looks, against the matrices that transformers' own eager attention gives."""

from __future__ import annotations

import gc
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    PreTrainedConfig,
)

from entropylong.errors import EvaluationError
from entropylong.evaluation.attention import answer_share, last_token, shares_by_depth
from entropylong.evaluation.depths import haystack
from tests.evaluation.test_longppl import sharpened

IDS = np.random.default_rng(0).integers(2, 256, 70).astype(np.int32)
SMALL: dict[str, Any] = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def saved(folder: Path, config: PreTrainedConfig) -> Path:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@torch.inference_mode()
def eager_row(folder: Path, ids: np.ndarray) -> np.ndarray:
    """The last row of all heads' and layers' matrices, their mean."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    matrices = model(torch.tensor(ids[None], dtype=torch.long), output_attentions=True).attentions
    row: np.ndarray = torch.stack(matrices)[:, 0, :, -1].double().mean((0, 1)).numpy()
    return row


@pytest.fixture(scope="module")
def sharp(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four query heads on two key heads."""
    return sharpened(tiny_lm, tmp_path_factory.mktemp("sharp") / "lm")


def test_a_haystack_is_the_benchmarks_prompt(tiny_lm: Path) -> None:
    """In parts: instruction, noise, needle, question; the span is the number's, and the length is used up but for a line."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    for length in (400, 777):
        hay = haystack(tokenizer, (0,), length, 42, 1)
        size = len(hay.front) + len(hay.line) * hay.lines + len(hay.needle) + len(hay.question)
        assert length - len(hay.line) < size <= length and hay.front[0] == 0
        needle = tokenizer.decode(hay.needle)
        match = re.fullmatch(r"One of the special magic numbers for (.+) is: (\d{7})\.\n", needle)
        assert match is not None and tokenizer.decode(hay.needle[slice(*hay.answer)]).strip() == match[2]
        assert tokenizer.decode(hay.front[1:]).startswith("A special magic number is hidden within the following text.")
        assert (
            tokenizer.decode(hay.line)
            == "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
        )
        assert tokenizer.decode(hay.question).endswith(
            f" The special magic number for {match[1]} mentioned in the provided text is"
        )
    assert haystack(tokenizer, (0,), 400, 42, 1) != haystack(tokenizer, (0,), 400, 43, 1)


@pytest.mark.parametrize("key_heads", [2, 1, 4])
def test_rows_are_those_of_eager_attention(sharp: Path, tmp_path: Path, key_heads: int) -> None:
    folder = sharp
    if key_heads != 2:
        config = LlamaConfig(**SMALL, num_attention_heads=4, num_key_value_heads=key_heads)
        folder = sharpened(saved(tmp_path / "plain", config), tmp_path / "sharp")
    with last_token(folder) as attend:
        for length in (70, 33, 1):
            row = attend(IDS[:length])
            assert row.shape == (length,) and row.sum() == pytest.approx(1, abs=1e-6)
            np.testing.assert_allclose(row, eager_row(folder, IDS[:length]), atol=1e-5)
    uniform = np.full(70, 1 / 70)
    assert np.abs(eager_row(folder, IDS) - uniform).max() > 0.01, "a wrong head or scale would be seen"


def test_shares_over_all_spans_sum_to_one(sharp: Path) -> None:
    spans = [(0, 1), (1, 20), (20, 64), (64, 70)]
    shares = answer_share(sharp, IDS, *spans)
    assert shares.shape == (4,) and shares.sum() == pytest.approx(1, abs=1e-6)
    row = eager_row(sharp, IDS)
    np.testing.assert_allclose(shares, [row[start:end].sum() for start, end in spans], atol=1e-5)
    assert answer_share(sharp, IDS.tolist(), (20, 64)) == pytest.approx(shares[2:3], abs=1e-9)
    # In bfloat16 it is the row of what that model computes; the mean is taken in more digits.
    assert answer_share(sharp, IDS, *spans, dtype="bfloat16").sum() == pytest.approx(1, abs=1e-5)


def test_shares_by_depth_move_the_needle(sharp: Path) -> None:
    needle, filler, question = [7, 8, 9, 10], IDS[:40].tolist(), [11, 12]
    with last_token(sharp) as attend:
        shares = shares_by_depth(attend, needle, filler, [0, 0.5, 1], front=[0], question=question, answer=(2, 4))
        whole = shares_by_depth(attend, needle, filler, [0.26], front=[], question=question)
        assert shares_by_depth(attend, needle, filler, [], front=[0]).shape == (0,)
        for depth in (-0.1, 1.1, float("nan")):
            with pytest.raises(EvaluationError, match=r"is not within 0 \.\. 1"):
                shares_by_depth(attend, needle, filler, [depth], front=[0])
        with pytest.raises(EvaluationError, match=r"span 2 \.\. 5 is not within 4 tokens"):
            shares_by_depth(attend, needle, filler, [0], front=[0], answer=(2, 5))
    for share, cut in zip(shares, (0, 20, 40), strict=True):
        row = eager_row(sharp, np.array([0, *filler[:cut], *needle, *filler[cut:], *question]))
        assert share == pytest.approx(row[1 + cut + 2 : 1 + cut + 4].sum(), abs=1e-5)
    row = eager_row(sharp, np.array([*filler[:10], *needle, *filler[10:], *question]))
    assert whole == pytest.approx(row[10:14].sum(), abs=1e-5)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


def test_no_matrix_of_all_pairs_is_made(sharp: Path) -> None:
    ids = np.resize(IDS, 600)
    with last_token(sharp) as attend, Largest() as largest:
        attend(ids)
    assert 600 * 32 <= largest.elements < 600 * 600


def test_the_model_is_gone_afterwards(sharp: Path) -> None:
    def models() -> int:
        gc.collect()
        return sum(type(one) is LlamaModel for one in gc.get_objects())

    before = models()
    with last_token(sharp) as attend:
        attend(IDS)
        assert models() == before + 1
    assert models() == before and callable(attend)
    # Two at a time do not meet.
    with last_token(sharp) as one, last_token(sharp) as other:
        long, short = one(IDS), other(IDS[:9])
    assert len(long) == 70 and len(short) == 9


@pytest.mark.model
def test_models_that_attend_otherwise_are_refused(tmp_path: Path) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sliding = saved(tmp_path / "sliding", MistralConfig(**SMALL, **heads, sliding_window=32))
    with last_token(sliding) as attend:
        np.testing.assert_allclose(attend(IDS[:32]), eager_row(sliding, IDS[:32]), atol=1e-5)
        with pytest.raises(EvaluationError, match="layers that see 32 tokens of 33"):
            attend(IDS[:33])
    with pytest.raises(EvaluationError, match="has a softcap"):
        answer_share(saved(tmp_path / "capped", Gemma2Config(**SMALL, **heads, head_dim=8)), IDS, (0, 1))
    bloom = saved(tmp_path / "bloom", BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(EvaluationError, match="attention of 0 layers of 2 can be read"):
        answer_share(bloom, IDS, (0, 1))


def test_spans_outside_and_broken_weights_are_said(sharp: Path, tmp_path: Path) -> None:
    for span in ((-1, 3), (3, 3), (60, 71)):
        with pytest.raises(EvaluationError, match=r"is not within 70 tokens"):
            answer_share(sharp, IDS, span)
    broken = LlamaForCausalLM.from_pretrained(sharp)
    with torch.no_grad():
        broken.model.embed_tokens.weight[int(IDS[5])] = float("nan")
    broken.save_pretrained(shutil.copytree(sharp, tmp_path / "broken"))
    with pytest.raises(EvaluationError, match="its attention is not finite in float32"):
        answer_share(tmp_path / "broken", IDS, (0, 1))
