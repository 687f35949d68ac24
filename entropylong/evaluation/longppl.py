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
from entropylong.evaluation.results import Result
from entropylong.models.cache import WorkerModel, load
from entropylong.models.causal_lm import CausalLM, Ids, encode_plain
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.utils.locks import locked


class Rule(TypedDict, total=False):
    """What of `key_tokens` differs from the paper's."""

    window: int
    stride: int
    gain: float
    most: float


PAPER: Rule = {"window": 4096, "stride": 1024, "gain": 2.0, "most": 2.0}
LABEL = "LongPPL: exp of the mean NLL of the evaluator's key tokens, over all documents together"
# Of a file that is read in one piece, and of a document that is not too long.
ALL = 2**62


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
    (far,) = far_gains(evaluator, ids, [(window, stride)], batch_tokens)
    return far.positions[(far.gain > gain) & (far.nll < most)]


@dataclass(frozen=True)
class FarGain:
    """What a far context explains of the tokens of a document that have one.

    Attributes:
        positions: of these tokens: all from window + stride on `[tokens]`.
        gain: NLL_short - NLL_long of each, in nats `[tokens]`.
        nll: NLL_long of each, in nats `[tokens]`.
    """

    positions: Ids
    gain: Floats
    nll: Floats


def far_gains(model: CausalLM, ids: Ids, windows: Sequence[tuple[int, int]], batch_tokens: int) -> list[FarGain]:
    """NLL_short - NLL_long of `key_tokens`, for several (window, stride); the whole document is read once for all.

    Args:
        model: that reads.
        ids: the document without the prefix `[tokens]`.
        windows: (window, stride) of each short context.
        batch_tokens: of a forward batch; the whole document goes alone.

    Raises:
        EvaluationError: the model gives no number for a token.
        ModelError: the document does not fit the device's memory.
    """
    positions_list = [np.arange(window + stride, len(ids), dtype=np.int32) for window, stride in windows]
    longest = max(positions_list, key=len)
    if not len(longest):
        return [FarGain(longest, np.zeros(0, np.float32), np.zeros(0, np.float32)) for _ in windows]
    shorts = [[ids[at : at + w + s] for at in range(s, len(ids) - w, s)] for w, s in windows]
    inside = [np.arange(w, len(short), dtype=np.int32) for (w, _), own in zip(windows, shorts, strict=True) for short in own]
    flat = [short for own in shorts for short in own]
    long, *short = _nll(model, [ids, *flat], [longest, *inside], batch_tokens)
    gains = []
    for positions, own in zip(positions_list, shorts, strict=True):
        nll = long[len(long) - len(positions) :]
        gains.append(FarGain(positions, np.concatenate([np.zeros(0, np.float32), *short[: len(own)]]) - nll, nll))
        short = short[len(own) :]
    return gains


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
    positions_list = [np.arange(first, len(ids), dtype=np.int32) for ids in ids_list]
    nll_list = _nll(model, ids_list, positions_list, batch_tokens)
    every = np.concatenate(nll_list).astype(np.float64)
    of_keys = [nll[keys - first].astype(np.float64) for nll, keys in zip(nll_list, keys_list, strict=True)]
    key = np.concatenate(of_keys)
    by_document = tuple((float(own.mean()) if len(own) else 0.0, len(own)) for own in of_keys)
    return LongPPL(float(np.exp(key.mean())), float(np.exp(every.mean())), len(key), len(every), by_document)


def _nll(model: CausalLM, ids_list: Sequence[Ids], positions: Sequence[Ids], batch_tokens: int) -> list[Floats]:
    """NLL at the positions of each sequence, the start prefix before it; positions do not count the prefix."""
    front = np.array(model.prefix, np.int32)
    sequences = [np.concatenate([front, ids]) for ids in ids_list]
    shifted = [places + np.int32(len(front)) for places in positions]
    return [finite(reading) for reading in entropy_at(model, sequences, shifted, batch_tokens=batch_tokens)]


def finite(reading: Reading) -> Floats:
    """The NLL of a reading.

    Raises:
        EvaluationError: it is not a number somewhere, which would be in no comparison and in every mean.
    """
    if not np.isfinite(reading.nll).all():
        raise EvaluationError(f"the model gives no number for some token ({reading.failure or 'its logits are not finite'})")
    return reading.nll


def save_keys(path: Path, evaluator: str, documents: Sequence[tuple[Ids, Ids]], **rule: Unpack[Rule]) -> None:
    """Keep the key tokens of documents.

    Args:
        path: of the JSON file.
        evaluator: hash of its files, and its dtype: the same weights in another one find other tokens.
        documents: ids and key tokens of each.
        rule: as `key_tokens` was given it, where that was not the paper's.
    """
    rows = [{"document": _hash(ids), "tokens": len(ids), "keys": keys.tolist()} for ids, keys in documents]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"evaluator": evaluator, "rule": {**PAPER, **rule}, "documents": rows}))


def load_keys(path: Path, evaluator: str, ids_list: Sequence[Ids], **rule: Unpack[Rule]) -> list[Ids]:
    """The key tokens that `save_keys` kept, of these documents in this order.

    Raises:
        EvaluationError: no such file, a damaged one, or one of another evaluator, another rule or other documents.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        of_evaluator, of_rule = record["evaluator"], record["rule"]
        hashes = [row["document"] for row in record["documents"]]
        keys = [np.array(row["keys"], np.int32) for row in record["documents"]]
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no key tokens there; let the evaluator find them first") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}: holds no key tokens; remove it and let the evaluator find them again") from None
    if of_evaluator != evaluator:
        raise EvaluationError(f"{path}: key tokens of evaluator {of_evaluator}, this one is {evaluator}; take another file")
    if of_rule != (expected_rule := {**PAPER, **rule}):
        raise EvaluationError(f"{path}: key tokens by {of_rule}, asked for {expected_rule}; take another file")
    if hashes != (expected_hashes := [_hash(ids) for ids in ids_list]):
        same = len(set(hashes) & set(expected_hashes))
        raise EvaluationError(
            f"{path}: key tokens of {len(hashes)} other documents ({same} of these {len(expected_hashes)}); take another file"
        )
    return keys


def _hash(ids: Ids) -> str:
    return digest(ids.tolist())


def read_documents(path: Path) -> list[str]:
    """Texts of JSON lines {"text": ...}, a file or all of a folder; blank ones are left out.

    Raises:
        SourceError: no such file.
        EvaluationError: a line without a text, or no text at all.
    """
    from entropylong.corpus.sources.jsonl import JSONL  # which needs pyarrow

    texts = []
    for unit in JSONL.list_units("documents", str(path), ALL):
        for record in JSONL.records(unit, str(path), "text", None, ALL):
            if record.outcome == "error":
                raise EvaluationError(f"{path}: should be JSON lines with a text; {record.detail}")
            texts += [record.text.strip()] if record.text is not None else []
    if not texts:
        raise EvaluationError(f"{path}: holds no document; it should be JSON lines with a text")
    return texts


def evaluate_longppl(
    judged: WorkerModel, evaluator: WorkerModel, texts: Sequence[str], length: int, keys_file: Path | None, out: Path,
    batch_tokens: int, **rule: Unpack[Rule],
) -> tuple[Result, LongPPL]:  # fmt: skip
    """LongPPL of a model on the evaluator's key tokens, which are found once and kept. One model is in memory at a time.

    Args:
        judged, evaluator: causal LMs with one tokenizer; they may be the same.
        texts: documents.
        length: tokens at which a document is cut.
        keys_file: of the key tokens; made if it is not there. None: in `out`, named by all that they depend on but the rule.
        out: folder under which the run has a folder of its own.
        batch_tokens: of a forward batch.
        rule: what of `key_tokens` differs from the paper's.

    Raises:
        EvaluationError: no key token, key tokens of other documents or of another evaluator, or another tokenizer.
    """
    ids_list = _encoded(judged, texts, length)
    if judged != evaluator and any((a != b).any() if len(a) == len(b) else True
                                   for a, b in zip(ids_list, _encoded(evaluator, texts, length), strict=True)):  # fmt: skip
        raise EvaluationError(
            f"{judged.spec.name}: another tokenizer than {evaluator.spec.name}; key tokens are positions of one tokenizer"
        )
    hashes = [_hash(ids) for ids in ids_list]
    by = f"{evaluator.fingerprint}-{evaluator.dtype}"
    path = keys_file or out / f"keys-{by}-{length}-{digest(hashes)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(f"{path}.lock"):  # checkpoints that are judged beside each other share the file
        if not path.is_file():
            first: CausalLM = load(evaluator)
            found_keys = [key_tokens(first, ids, batch_tokens=batch_tokens, **rule) for ids in ids_list]
            del first  # or it would be in memory beside the other
            save_keys(path, by, list(zip(ids_list, found_keys, strict=True)), **rule)
    keys = load_keys(path, by, ids_list, **rule)
    score = long_ppl(load(judged), ids_list, keys, batch_tokens)
    facts = {"benchmark": "longppl", "label": LABEL, "model": judged.spec.name, "model_hash": judged.fingerprint,
             "dtype": judged.dtype, "evaluator": evaluator.spec.name, "evaluator_hash": evaluator.fingerprint,
             "evaluator_dtype": evaluator.dtype, "length": length, "documents": digest(hashes),
             "keys": digest([own.tolist() for own in keys])}  # fmt: skip
    folder = out / digest(facts)
    folder.mkdir(parents=True, exist_ok=True)
    items: dict[str, tuple[float, float]] = {}
    for document, (value, count) in zip(hashes, score.by_document, strict=True):
        if count:  # a document that is there twice weighs twice
            items[document] = value, count + items.get(document, (0.0, 0.0))[1]
    figures = {f"longppl.{name}": value for name, value in score.figures.items()}
    return Result(folder, facts, figures).kept([score.figures], items), score


def _encoded(model: WorkerModel, texts: Sequence[str], length: int) -> list[Ids]:
    tokenizer = load(model.tokenizer())
    return [np.array(encode_plain(tokenizer, text)[:length], np.int32) for text in texts]
