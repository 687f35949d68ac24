"""LongPPL: perplexity over the tokens that a far context explains (Fang et al., "What is Wrong with Perplexity for Long-context
Language Modeling?", 2024). Pure torch.

In: token ids of documents. Out: which tokens are key, by one fixed evaluator and kept in a file; LongPPL of any model on them.
Every model is judged on the same tokens, or the numbers do not compare. Positions are tokens: all models share a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from entropylong.entropy.engine import Floats, Reading, entropy_at
from entropylong.errors import EvaluationError
from entropylong.evaluation.generation import Result
from entropylong.files import write_whole
from entropylong.hashing import digest
from entropylong.models.causal_lm import CausalLM, Ids


class Rule(TypedDict, total=False):
    """What of `key_tokens` differs from the paper's."""

    window: int
    stride: int
    gain: float
    most: float


PAPER: Rule = {"window": 4096, "stride": 1024, "gain": 2.0, "most": 2.0}
LABEL = "LongPPL: exp of the mean NLL of the evaluator's key tokens, over all documents together"


@dataclass(frozen=True)
class LongPPL:
    """Perplexities of a model over several documents, as exp of the mean NLL.

    Attributes:
        long_ppl: over the key tokens of all documents together.
        ppl: over all tokens that something stands before.
        key_count, token_count: how many these are.
        by_document: of each document the mean NLL of its key tokens (0 without one) and their number.
    """

    long_ppl: float
    ppl: float
    key_count: int
    token_count: int
    by_document: tuple[tuple[float, int], ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """What counts for all documents together, by name."""
        return {name: float(value) for name, value in vars(self).items() if name != "by_document"}


def key_tokens(
    evaluator: CausalLM, ids: Ids, *, window: int = 4096, stride: int = 1024, gain: float = 2.0, most: float = 2.0,
    batch_tokens: int = 8192,
) -> Ids:  # fmt: skip
    """Positions of a document's key tokens: NLL_short - NLL_long > gain and NLL_long < most, sorted.

    In the paper's terms LSD > alpha = 2 and LCL > beta = -2.

    NLL_long is with all of the document before the token; NLL_short from the last multiple of `stride` that leaves at least
    `window` tokens before it, so window .. window + stride - 1 of them. The model's start prefix stands in front of the document
    and of each short context, as of every document that is scored here (in the paper's code in front of the document only).
    Where the short context is the whole one, which it is up to position window + stride, no token is key.

    Args:
        evaluator: the model that decides.
        ids: the document without the prefix `[tokens]`.
        window, stride: tokens.
        gain: what the far context must explain of a token, in nats; not negative.
        most: what may stay unexplained, in nats.
        batch_tokens: of a forward batch; the whole document goes alone.

    Raises:
        EvaluationError: the model gives no number for a token.
        ModelError: the document does not fit the device's memory.
    """
    asked = np.arange(window + stride, len(ids), dtype=np.int32)
    if not len(asked):
        return asked
    starts = range(stride, len(ids) - window, stride)
    shorts = [ids[start : start + window + stride] for start in starts]
    in_short = [np.arange(window, len(short), dtype=np.int32) for short in shorts]
    long, *short = _nll(evaluator, [ids, *shorts], [asked, *in_short], batch_tokens)
    is_key = (np.concatenate(short) - long > gain) & (long < most)
    return asked[is_key]


def long_ppl(model: CausalLM, ids_list: Sequence[Ids], keys_list: Sequence[Ids], batch_tokens: int = 8192) -> LongPPL:
    """LongPPL and perplexity of a model, over the tokens of all documents together.

    The start prefix stands in front of each document. Documents without key tokens count for the perplexity. (The paper's scripts
    average the documents' perplexities instead, weighted by their key tokens: for one document that is the same.)

    Args:
        model: the model that is judged.
        ids_list: documents without the prefix, each `[tokens]`.
        keys_list: positions of each one's key tokens, by `key_tokens` of the evaluator.
        batch_tokens: of a forward batch; a longer document goes alone.

    Raises:
        EvaluationError: no document has a key token, a key is not in its document, or the model gives no number for a token.
        ModelError: a document does not fit the device's memory.
    """
    first = 0 if model.prefix else 1
    for number, (ids, keys) in enumerate(zip(ids_list, keys_list, strict=True)):
        if len(keys) and not first <= keys.min() <= keys.max() < len(ids):
            raise EvaluationError(f"document {number} has key tokens outside of its {len(ids)} tokens: keys of another document?")
    if not any(map(len, keys_list)):
        raise EvaluationError(
            f"none of {len(ids_list)} documents has a key token; take longer documents, or an evaluator that uses long contexts"
        )
    asked = [np.arange(first, len(ids), dtype=np.int32) for ids in ids_list]
    found = _nll(model, ids_list, asked, batch_tokens)
    every = np.concatenate(found).astype(np.float64)
    of_keys = [nll[keys - first].astype(np.float64) for nll, keys in zip(found, keys_list, strict=True)]
    key = np.concatenate(of_keys)
    by_document = tuple((float(own.mean()) if len(own) else 0.0, len(own)) for own in of_keys)
    return LongPPL(float(np.exp(key.mean())), float(np.exp(every.mean())), len(key), len(every), by_document)


def _nll(model: CausalLM, ids_list: Sequence[Ids], positions: Sequence[Ids], batch_tokens: int) -> list[Floats]:
    """NLL at the positions of each sequence, the start prefix before it; positions do not count the prefix."""
    front = np.array(model.prefix, np.int32)
    sequences = [np.concatenate([front, ids]) for ids in ids_list]
    shifted = [asked + np.int32(len(front)) for asked in positions]
    return [_finite(reading) for reading in entropy_at(model, sequences, shifted, batch_tokens=batch_tokens)]


def _finite(reading: Reading) -> Floats:
    # A NaN is in no comparison: its token would not be key, silently.
    if not np.isfinite(reading.nll).all():
        raise EvaluationError(f"the model gives no number for some token ({reading.failure or 'its logits are not finite'})")
    return reading.nll


def save_keys(path: Path, evaluator_hash: str, documents: Sequence[tuple[Ids, Ids]], **rule: Unpack[Rule]) -> None:
    """Keep the key tokens of documents.

    Args:
        path: of the JSON file.
        evaluator_hash: of the evaluator's files.
        documents: ids and key tokens of each.
        rule: as `key_tokens` was given it, where that was not the paper's.
    """
    rows = [{"document": _hash(ids), "tokens": len(ids), "keys": keys.tolist()} for ids, keys in documents]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"evaluator": evaluator_hash, "rule": {**PAPER, **rule}, "documents": rows}))


def load_keys(path: Path, evaluator_hash: str, ids_list: Sequence[Ids], **rule: Unpack[Rule]) -> list[Ids]:
    """The key tokens that `save_keys` kept, of these documents in this order.

    Raises:
        EvaluationError: no such file, a damaged one, or one of another evaluator, another rule or other documents.
    """
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        evaluator, of_rule = kept["evaluator"], kept["rule"]
        hashes = [row["document"] for row in kept["documents"]]
        keys = [np.array(row["keys"], np.int32) for row in kept["documents"]]
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no key tokens there; let the evaluator find them first") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}: holds no key tokens; remove it and let the evaluator find them again") from None
    if evaluator != evaluator_hash:
        raise EvaluationError(f"{path}: key tokens of evaluator {evaluator}, this one is {evaluator_hash}; take another file")
    if of_rule != (asked := {**PAPER, **rule}):
        raise EvaluationError(f"{path}: key tokens by {of_rule}, asked for {asked}; take another file")
    if hashes != (wanted := [_hash(ids) for ids in ids_list]):
        same = len(set(hashes) & set(wanted))
        raise EvaluationError(
            f"{path}: key tokens of {len(hashes)} other documents ({same} of these {len(wanted)}); take another file"
        )
    return keys


def _hash(ids: Ids) -> str:
    return digest(ids.tolist())


@dataclass(frozen=True)
class NamedLM:
    """A causal LM that is loaded when it is needed.

    Attributes:
        name, fingerprint: what the record calls it.
        folder, dtype, document_start_id: as `CausalLM` takes them.
    """

    name: str
    fingerprint: str
    folder: Path
    dtype: str
    document_start_id: int | None

    def load(self) -> CausalLM:
        """The model."""
        return CausalLM(self.folder, self.dtype, self.document_start_id)


def read_documents(path: Path) -> list[str]:
    """Texts of JSON lines {"text": ...}.

    Raises:
        EvaluationError: no such file, or a line without a text.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise EvaluationError(f"{path} cannot be read; it should be JSON lines with a text") from None
    texts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                texts.append(json.loads(line)["text"].strip())
            except (ValueError, KeyError, TypeError, AttributeError):
                raise EvaluationError(f"{path}: line {number} is no JSON object with a text") from None
    if not texts:
        raise EvaluationError(f"{path}: holds no document; it should be JSON lines with a text")
    return texts


def evaluate_longppl(
    judged: NamedLM,
    evaluator: NamedLM,
    texts: Sequence[str],
    length: int,
    keys_file: Path,
    out: Path,
    batch_tokens: int,
    **rule: Unpack[Rule],
) -> tuple[Result, LongPPL]:
    """LongPPL of a model on the evaluator's key tokens, which are found once and kept.

    Args:
        judged, evaluator: with one tokenizer; they may be the same.
        texts: documents.
        length: tokens at which a document is cut.
        keys_file: of the key tokens; made if it is not there.
        out: folder under which the run has a folder of its own.
        batch_tokens: of a forward batch.
        rule: what of `key_tokens` differs from the paper's.

    Raises:
        EvaluationError: no key token, key tokens of other documents or of another evaluator, or another tokenizer.
    """
    first = evaluator.load() if not keys_file.is_file() else None
    model = first if first is not None and judged == evaluator else judged.load()
    ids_list = [np.array(model.encode(text)[:length], np.int32) for text in texts]
    if first is not None:
        if first.encode(texts[0]) != model.encode(texts[0]):
            raise EvaluationError(
                f"{judged.name}: another tokenizer than {evaluator.name}; key tokens are positions of one tokenizer"
            )
        found_keys = [key_tokens(first, ids, batch_tokens=batch_tokens, **rule) for ids in ids_list]
        save_keys(keys_file, evaluator.fingerprint, list(zip(ids_list, found_keys, strict=True)), **rule)
    keys = load_keys(keys_file, evaluator.fingerprint, ids_list, **rule)
    found = long_ppl(model, ids_list, keys, batch_tokens)
    hashes = [_hash(ids) for ids in ids_list]
    facts = {"benchmark": "longppl", "label": LABEL, "model": judged.name, "model_hash": judged.fingerprint,
             "dtype": judged.dtype, "evaluator": evaluator.name, "evaluator_hash": evaluator.fingerprint, "length": length,
             "documents": digest(hashes), "keys": digest([own.tolist() for own in keys])}  # fmt: skip
    folder = out / digest(facts)
    folder.mkdir(parents=True, exist_ok=True)
    items: dict[str, tuple[float, float]] = {}
    for document, (value, count) in zip(hashes, found.by_document, strict=True):
        if count:  # a document that is there twice weighs twice
            items[document] = value, count + items.get(document, (0.0, 0.0))[1]
    figures = {f"longppl.{name}": value for name, value in found.figures.items()}
    return Result(folder, facts, figures).kept([found.figures], items), found
