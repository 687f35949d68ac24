"""Conversations as token ids: rendered by a chat template, with the tokens that are targets. Pure Python."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt

# Why a record was refused, or was not taken whole.
NOT_JSON, NO_MESSAGES, NOT_RENDERED, CUT = "NOT_JSON", "NO_MESSAGES", "NOT_RENDERED", "CUT"
SPECIAL_TOKEN = "SPECIAL_TOKEN"
# As transformers looks for it.
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class RefusedError(Exception):
    """A record that cannot be trained on.

    Attributes:
        code: one of the above.
        detail: what is wrong with it.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


Message = dict[str, str]


def parse_conversation(line: str) -> list[Message]:
    """The messages of one line of JSON in UltraChat's shape: {"messages": [{"role": ..., "content": ...}, ...]}.

    Raises:
        RefusedError: it is no JSON object, or its messages are not of that shape, or none is the assistant's.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RefusedError(NOT_JSON, str(error)) from None
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise RefusedError(NO_MESSAGES, "has no list `messages`")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise RefusedError(NO_MESSAGES, f"message {number}: needs a role and a content, both text")
    if not any(message["role"] == "assistant" for message in messages):
        raise RefusedError(NO_MESSAGES, "no message of the assistant")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def encode_conversation(
    tokenizer: Any, messages: list[Message], *, template: str | None, assistant_only: bool
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Token ids of a conversation, and which of them are targets.

    Args:
        tokenizer: with offsets (a fast one).
        messages: as `parse_conversation` gives them.
        template: Jinja, rendered in transformers' sandbox; None takes the tokenizer's own.
        assistant_only: targets are what the template marks as generated ({% generation %}); of a template without marks, what
            the assistant said and its end. Else all tokens.

    Raises:
        RefusedError: the template refuses it, or marks nothing and does not render a conversation's beginning as that of its whole.
    """
    planted = [token for token in tokenizer.all_special_tokens if any(token in message["content"] for message in messages)]
    if planted:
        raise RefusedError(SPECIAL_TOKEN, f"a message holds {planted[0]!r}, which would end or begin one")
    try:
        if assistant_only and _MARK.search(template or tokenizer.get_chat_template()):
            marked = tokenizer.apply_chat_template(
                messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True,
                tokenizer_kwargs={"verbose": False},
            )  # fmt: skip
            return np.array(marked["input_ids"], np.int32), np.array(marked["assistant_masks"], np.uint8)
        text = _render(tokenizer, messages, template)
        spans = _assistant_spans(tokenizer, messages, template, text) if assistant_only else [(0, len(text))]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    except RefusedError:
        raise
    except Exception as error:  # a template may raise whatever it wants
        raise RefusedError(
            NOT_RENDERED, f"the chat template or the tokenizer refuses it: {' '.join(str(error).split())[:200]}"
        ) from None
    ids = np.array(encoded["input_ids"], np.int32)
    if not assistant_only:
        return ids, np.ones(len(ids), np.uint8)
    starts = np.array([start for start, _ in encoded["offset_mapping"]])
    inside = np.zeros(len(ids), bool)
    for first, end in spans:
        inside |= (starts >= first) & (starts < end)
    return ids, inside.astype(np.uint8)


def _render(tokenizer: Any, messages: list[Message], template: str | None, is_open: bool = False) -> str:
    return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=is_open))


def _assistant_spans(tokenizer: Any, messages: list[Message], template: str | None, text: str) -> list[tuple[int, int]]:
    """(start, end) in the text of each of the assistant's messages, as it would generate them."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:number], template, is_open=True)
        through = _render(tokenizer, messages[: number + 1], template)
        if not (text.startswith(through) and through.startswith(before)):
            raise RefusedError(NOT_RENDERED, "the chat template changes earlier messages: take loss_on all, or another template")
        spans.append((len(before), len(through)))
    return spans
