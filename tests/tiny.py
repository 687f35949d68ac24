"""Tiny random models for unit tests: real architectures, real tokenizers, no download. The main path's tests use real ones."""

from __future__ import annotations

import json
from pathlib import Path

TEXT = (
    "The function returns the filter. See also the window function, which returns a window of the given length. "
    "An anchor is a position of high entropy; a chunk is a unit of text that may explain it. Numbers: 0 1 2 3 4 5 6 7 8 9."
)


def make_causal_lm(path: Path, seed: int = 0, vocabulary: int = 400) -> Path:
    """A 2-layer, 32-wide Llama with a byte-level BPE tokenizer that can encode any text."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", pad_token="<|pad|>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Random weights predict almost uniformly; a larger head makes entropies differ from position to position.
        model.lm_head.weight.mul_(60.0)
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path


def make_encoder(path: Path, seed: int = 0) -> Path:
    """A 1-layer, 32-wide BERT with mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = path.with_name(path.name + "-bert")
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(33, 127)]
    words = sorted({w.strip(".,:;").lower() for w in TEXT.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(dict.fromkeys(vocabulary)), max_position_embeddings=256, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    word = models.Transformer(str(folder), max_seq_length=128)
    SentenceTransformer(modules=[word, models.Pooling(32)], device="cpu").save(str(path))
    return path


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def documents(count: int, seed: int = 0, words: int = 120) -> list[dict[str, object]]:
    """Documents of several paragraphs of known words, some of them shared, all different."""
    import random

    rng = random.Random(seed)
    vocabulary = sorted({w.strip(".,:;") for w in TEXT.split()})
    shared = [" ".join(rng.choices(vocabulary, k=30)) + "." for _ in range(6)]
    rows = []
    for number in range(count):
        paragraphs = [f"Document {number} of the test corpus."]
        paragraphs += [" ".join(rng.choices(vocabulary, k=words // 4)) + f" {rng.randrange(10**6)}." for _ in range(4)]
        paragraphs.insert(rng.randrange(1, 5), rng.choice(shared))
        rows.append({"doc_id": f"doc-{number:04d}", "text": "\n".join(paragraphs)})
    return rows
