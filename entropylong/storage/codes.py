"""Every code that a skipped or refused row can bear: what it means, and what to do. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Rows by (outcome, code); an ok row has no code.
Outcomes = Mapping[tuple[str, str | None], int]

# Of a row that shares text with an evaluation set; another try would refuse it again.
CONTAMINATED = "CONTAMINATED"
# Of a pair without the token ids of its root or of its chunk.
NO_IDS = "NO_IDS"


@dataclass(frozen=True)
class Code:
    """What a code means, and what its rows' owner does; `skipped` is by rule, all else is damage (an error row)."""

    meaning: str
    remedy: str
    skipped: bool = False


_AGAIN = (
    "A file whose size has changed is read again; what was read of it before is skipped as a copy. This row stays, as the record "
    "of what was there: its origin has the size it had."
)
_MEND = f"Mend the record in its file. {_AGAIN}"
_RETRY = "Once the cause is gone (the detail says it): `entropylong quarantine STAGE --retry`, then `run`."

CODES = {
    "BLANK_TEXT": Code("The text is empty or white space.", "Nothing: it could teach nothing.", skipped=True),
    "BUDGET_FULL": Code(
        "The pair was not measured: the root's accepted contexts fill `verify.budget_tokens`.",
        "Nothing; a larger budget, or null, measures the rest and nothing twice.",
        skipped=True,
    ),
    "CONFLICTING_ID": Code(
        "The id stands for another text already.",
        "Documents are immutable: give the new text an id of its own, or leave ids out (columns.doc_id: null).",
    ),
    CONTAMINATED: Code(
        "It shares 13 words in a row with a set of `corpus.exclude`; the detail names set and words.",
        "Nothing, where the set is to be kept out. Many: see whether a set's phrase is a common one.",
    ),
    "CUT": Code(
        "A conversation longer than `pack.length` was cut, not refused.", "Nothing; or a longer `pack.length`.", skipped=True
    ),
    "DOCUMENT_TOO_LONG": Code("Longer than `ingest.max_chars`.", "Split the document, or raise the key."),
    "DUPLICATE_TEXT": Code("An exact copy of another document.", "Nothing: one of them is used.", skipped=True),
    "EMPTY_UNIT": Code("A part of an input file without a record.", "Nothing.", skipped=True),
    "INVALID_JSON": Code("The line is not JSON, or not an object.", _MEND),
    "INVALID_UTF8": Code("The text's bytes are not UTF-8.", f"Convert the file to UTF-8. {_AGAIN}"),
    "LONE_SURROGATE": Code("The text holds half of a surrogate pair, which UTF-8 cannot hold.", _MEND),
    "MODEL_FAILED": Code("The model raised an error on this row alone.", _RETRY),
    "NO_ANCHOR": Code(
        "No position of the root is above its threshold.",
        "Nothing, for a few. Many: lower `anchors.alpha`, or take longer roots (`roots.min_tokens`).",
        skipped=True,
    ),
    "NO_CANDIDATE": Code(
        "Nothing was retrieved: every near chunk is the root's own or has its text.",
        "Give the corpus more text, or raise `retrieval.top_k`.",
        skipped=True,
    ),
    NO_IDS: Code(
        "The pair cannot be measured: its chunk has no token ids, as the row of `context_ids` says, or its root has none.",
        f"See why: `entropylong quarantine pairs`. {_RETRY}",
    ),
    "NO_MESSAGES": Code(
        "A conversation without usable `messages`.", "Mend the record; see the file of refused ones beside the feed."
    ),
    "NO_TEXT": Code(
        "The text is null, missing or not a string.", "Name the right column in `sources.<name>.columns`; or mend the record."
    ),
    "NON_FINITE": Code("A vector or an entropy is NaN or infinite.", f"Try `model.dtype=float32`. {_RETRY}"),
    "NOT_JSON": Code(
        "A line of a conversations file is not JSON.", "Mend the record; see the file of refused ones beside the feed."
    ),
    "NOT_RENDERED": Code(
        "The chat template refuses the conversation.", "Mind the roles and their order, or state `train.chat_template`."
    ),
    "NUL_BYTE": Code("The text holds a NUL character.", _MEND),
    "RESERVED_ID": Code("The id begins as those of planted canaries do.", "Give the document another id."),
    "ROW_FAILED": Code("Our code raised an error on this row alone.", f"The detail is worth an issue. {_RETRY}"),
    "SCREENED_OUT": Code(
        "The pair was not measured: `verify.screen` did not propose it.",
        "Nothing; the screen's recall stands among the run's figures. `verify.screen.kind=none` measures all.",
        skipped=True,
    ),
    "SPECIAL_TOKEN": Code("A conversation's text spells a special token of the tokenizer.", "Take it out of the text."),
    "TOKENIZER_FAILED": Code("The tokenizer raised an error on this text alone.", _RETRY),
    "TOO_LONG": Code(
        "Longer than `roots.max_tokens`, with `roots.long: skip`.", "`roots.long: truncate` or `split`.", skipped=True
    ),
    "TOO_SHORT": Code(
        "Shorter than `roots.min_tokens`.", "Nothing: as corpus text it is used all the same. Many: lower the key.", skipped=True
    ),
    "UNREADABLE_FILE": Code("The file cannot be read or decompressed to its end.", f"Copy or write it anew. {_AGAIN}"),
    "WORKER_DIED": Code(
        "The row killed its Python worker, alone, twice: memory, most often.",
        f"Give executors more memory overhead, or lower `run.batch_tokens`. {_RETRY}",
    ),
}


def remedy(code: str) -> str:
    """What to do about a code; of one that another version of this package wrote, nothing is known."""
    return CODES[code].remedy if code in CODES else "of another version of this package"


# Code of the rows that are refused for it.
