"""Conversations become ids and targets; what cannot is refused by code, whatever it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from entropylong.config import load_config
from entropylong.training.data.chat import RefusedError, encode_conversation, parse_conversation

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# The same text; what the assistant generates is marked.
MARKED = TEMPLATE.replace(
    "{{ m['content'] }}\n",
    "{% if m['role'] == 'user' %}{{ m['content'] }}\n{% else %}{% generation %}{{ m['content'] }}\n{% endgeneration %}{% endif %}",
)


def conversation(*contents: object) -> str:
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]})


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "NOT_JSON"),
        ("[" * 100_000, "NOT_JSON"),
        ("[1]", "NO_MESSAGES"),
        ('{"messages": {}}', "NO_MESSAGES"),
        ('{"messages": ["hello"]}', "NO_MESSAGES"),
        (conversation("a", 3), "NO_MESSAGES"),
        (conversation("a"), "NO_MESSAGES"),
        (conversation("a", "cut \ud83d"), "NOT_RENDERED"),
        (conversation("a", "it ends <|endoftext|> here"), "SPECIAL_TOKEN"),
    ],
)
def test_refused_by_code(line: str, code: str, tiny_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    with pytest.raises(RefusedError) as caught:
        encode_conversation(tokenizer, parse_conversation(line), template=TEMPLATE, assistant_only=False)
    assert caught.value.code == code


def test_a_template_that_rewrites_earlier_messages_has_no_assistant_spans(tiny_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    messages = parse_conversation(conversation("a", "b", "c", "d"))
    last = "{{ messages | length }}" + TEMPLATE
    assert len(encode_conversation(tokenizer, messages, template=last, assistant_only=False)[0]) > 4
    with pytest.raises(RefusedError, match="changes earlier messages"):
        encode_conversation(tokenizer, messages, template=last, assistant_only=True)


def test_what_a_template_marks_are_the_targets_that_a_search_finds(tiny_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    messages = parse_conversation(conversation("what is <a> ?", "yes, b \u00e9", "and\n\nthen", "", "so", " no "))
    by_search = encode_conversation(tokenizer, messages, template=TEMPLATE, assistant_only=True)
    marked = encode_conversation(tokenizer, messages, template=MARKED, assistant_only=True)
    for searched, read in zip(by_search, marked, strict=True):
        assert searched.dtype == read.dtype and searched.tolist() == read.tolist()
    ids, targets = marked
    assert tokenizer.decode(ids[targets == 1]) == "yes, b \u00e9\n\n no \n"
    # A template's own is read alike; all tokens are targets where that is asked, marks or not.
    tokenizer.chat_template = MARKED
    assert encode_conversation(tokenizer, messages, template=None, assistant_only=True)[1].tolist() == targets.tolist()
    assert encode_conversation(tokenizer, messages, template=MARKED, assistant_only=False)[1].all()
    # Who marks may rewrite what came before.
    last = encode_conversation(tokenizer, messages, template="{{ messages | length }}" + MARKED, assistant_only=True)
    assert tokenizer.decode(last[0][last[1] == 1]) == tokenizer.decode(ids[targets == 1])


def test_the_shipped_llama_template() -> None:
    """Llama-3's published form of a conversation, rendered by hand."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment().from_string(load_config("sft_128k").train.chat_template or "")
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
    assert template.render(messages=messages, bos_token="<|begin_of_text|>", add_generation_prompt=False) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nyes<|eot_id|>"
    )
