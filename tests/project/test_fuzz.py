"""1,000 documents of anything: random bytes, surrogates, control characters, huge lines. The job ends, and each has its row."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from entropylong.maintenance.check import check_workspace
from tests.conftest import OpenRunner

DOCUMENTS = 1000
_TEXTS = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Mn", "So", "Co"]), max_size=120),
    st.text(st.sampled_from('\x00\u2028\u202e\ufeff\ufffd\\"{}[]<|endoftext|>\U0001f9ff a\n'), max_size=200),
    st.integers(1, 20).map(lambda n: "x" * 4 ** min(n, 8)),
    st.integers(100, 900).map(lambda n: "word " * n),
)
_RECORDS = st.one_of(
    st.tuples(st.one_of(st.none(), st.text(max_size=40), st.integers()), _TEXTS).map(
        lambda pair: json.dumps({"doc_id": pair[0], "text": pair[1]}).encode()
    ),
    _TEXTS.map(lambda text: json.dumps({"text": text}).encode()),
    # As no JSON writer would leave it: broken UTF-8, half a record, another type.
    st.binary(max_size=200).map(lambda raw: raw.replace(b"\n", b"")),
    _TEXTS.map(lambda text: json.dumps({"text": text}).encode()[:-3]),
    st.sampled_from([b"null", b"[]", b'{"text": 5}', b'{"text": null}', b'{"text": "a", "text": "b"}', b"NaN", b"{" * 3000]),
).filter(lambda line: line.strip() != b"")


def fuzzed(count: int) -> list[bytes]:
    """So many different lines, the same at each run."""
    records: dict[bytes, None] = {}

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.lists(_RECORDS, min_size=count // 5, max_size=count // 5))
    def draw(lines: list[bytes]) -> None:
        if len(records) < count:
            records.update(dict.fromkeys(lines))

    draw()
    return list(records)[:count]


def test_a_thousand_fuzzed_documents(tmp_path: Path, open_runner: OpenRunner) -> None:
    lines = fuzzed(DOCUMENTS)
    folder = tmp_path / "fuzz"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    # Texts are what varies: each root goes through every stage with few anchors.
    keys = ["quarantine.max_rate=1", "roots.min_tokens=64", "anchors.alpha=1.0", "anchors.max_per_root=2", "retrieval.top_k=1",
            "controls.per_root=1"]  # fmt: skip
    runner = open_runner(tmp_path / "w", *keys, source=folder)
    runner.run()
    rows = runner.state.rows("documents")
    by_outcome = {row.outcome: row["count"] for row in rows.groupBy("outcome").count().collect()}
    assert sum(by_outcome.values()) == len(set(lines)) == DOCUMENTS, "in = ok + skipped + quarantined"
    assert by_outcome["ok"] > 200 and by_outcome["error"] > 100
    assert rows.where("outcome <> 'ok' AND (code IS NULL OR detail IS NULL)").count() == 0, "each with its reason"
    again = open_runner(tmp_path / "w", *keys, source=folder)
    assert [check for check in check_workspace(again.state) if check.wrong] == []
