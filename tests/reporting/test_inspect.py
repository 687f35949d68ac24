"""inspect: what it says of each candidate is what the rule decided."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import functions as F
from rich.console import Console
from transformers import AutoTokenizer

from entropylong.models.causal_lm import encode_plain
from entropylong.reporting.inspect import chunk_texts, inspect_root
from tests.conftest import OpenRunner

SPECIFIC = ["accept.rule=specific", "accept.min_excess=0", "accept.min_nll_drop=0.001", "accept.max_copy_tokens=3"]


@pytest.mark.parametrize("keys", [[], SPECIFIC], ids=["paper", "specific"])
def test_each_candidate_has_its_verdict_and_what_is_shown_is_counted(
    keys: list[str], finished: Path, open_runner: OpenRunner
) -> None:
    runner = open_runner(finished, *keys)
    readings = runner.state.readings().where(F.col("kind") == "retrieved").collect()
    root, accepted = Counter(reading.root_id for reading in readings if reading.accepted).most_common(1)[0]
    out = io.StringIO()
    Console(file=out, width=120).print(inspect_root(runner.state, root, chunks_shown=1))
    output = out.getvalue()
    rule = runner.config.accept

    def reason(reading) -> str:  # type: ignore[no-untyped-def]
        if not reading.gain > rule.epsilon:
            return "no: gain"
        if rule.rule == "specific" and not (reading.excess_gain or -9) > rule.min_excess:
            return "no: excess"
        if rule.rule == "specific" and not reading.nll - reading.nll_with > rule.min_nll_drop:
            return "no: NLL drop"
        return "yes" if rule.max_copy_tokens is None or reading.copy_len <= rule.max_copy_tokens else "no: copy"

    expected = Counter(reason(reading) for reading in readings if reading.root_id == root)
    assert Counter(re.findall(r" (yes|no: (?:gain|excess|NLL drop|copy)) *$", output, re.MULTILINE)) == expected
    assert expected["yes"] == accepted > 1
    flat = " ".join(output.split())
    assert f"In full: 1 of {accepted} accepted candidates" in flat and f"--contexts {accepted} shows all" in flat
    assert f"(H - H') / H > {rule.epsilon:g}" in flat and output.count("dependency at ") == 1


def test_of_a_context_what_the_model_read(finished: Path, open_runner: OpenRunner, tiny_lm: Path) -> None:
    tokenizer, runner = AutoTokenizer.from_pretrained(tiny_lm), open_runner(finished)
    whole = {row.chunk_id: row for row in runner.state.ok_rows("chunks").collect()}
    ids = {chunk_id: encode_plain(tokenizer, row.text) for chunk_id, row in whole.items()}
    most = sorted(map(len, ids.values()))[len(ids) // 2]
    texts = chunk_texts(open_runner(finished, f"contexts.max_tokens={most}").state, list(whole))
    for chunk_id, row in whole.items():
        header, text = texts[chunk_id].split("\n", 1)
        is_cut = len(ids[chunk_id]) > most
        assert text == (tokenizer.decode(ids[chunk_id][:most]) if is_cut else row.text)
        assert header.startswith(f"[{row.doc_id}") and (f"the first {most} tokens" in header) == is_cut
    assert {len(own) > most for own in ids.values()} == {True, False}
