"""The report: its numbers against the tables, its sentences against direct passes, its page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from entropylong.errors import NothingToDoError, UsageError
from entropylong.models.causal_lm import CausalLM
from entropylong.pipeline.runner import Runner
from entropylong.reporting.report.gallery import gallery
from entropylong.reporting.report.gather import ENTROPY_BIN, GAIN_BIN, Gathered, Rate, gather
from entropylong.reporting.report.page import rank_words, report_page, verdict
from entropylong.reporting.report.sentences import MOST_SENTENCES, sentences, token_texts, weigh, without_each
from entropylong.reporting.report.write import write_report
from entropylong.verification.measuring import Pair, measure
from tests.conftest import OpenRunner

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@given(text=st.text(alphabet="ab.!? \n。é漢", max_size=200))
def test_sentences_join_to_the_text(text: str) -> None:
    pieces = sentences(text)
    assert "".join(pieces) == text and len(pieces) <= MOST_SENTENCES and all(pieces)
    assert without_each(pieces) == [
        text[: len("".join(pieces[:n]))] + text[len("".join(pieces[: n + 1])) :] for n in range(len(pieces))
    ]


def test_sentences_end_where_people_end_them() -> None:
    assert sentences("One is. Two is!\nThree\n\nFour") == ["One is. ", "Two is!\n", "Three\n\n", "Four"]


def test_each_token_shows_its_text(tiny_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    text = "Straße, 漢字 and 🙂 end"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids) and "".join(texts) == tokenizer.decode(ids) and "\ufffd" not in "".join(texts)


def test_the_sentence_that_answers_is_the_one_most_is_lost_without() -> None:
    pieces = weigh(["a", "b", "c"], 4.0, 2.0, [2.5, 3.5, 1.5])
    assert [(s.share, s.answers) for s in pieces] == [(0.25, False), (0.75, True), (-0.25, False)]
    assert not any(s.answers for s in weigh(["a", "b"], 2.0, 2.5, [3.0, 2.0])), "nothing fell, so nothing answers"
    assert weigh([], 4.0, 2.0, []) == []


def test_the_verdict_says_how_well_chance_is_known() -> None:
    figures = {"dependencies": 20.0, "roots_with_dependency": 5.0, "roots": 13.0, "sequences": 1.0, "packed_dependencies": 18.0,
               "cells_retrieved": 200.0, "pass_rate_retrieved_specific": 0.1,
               "cells_random": 30.0, "pass_rate_random_specific": 0.0, "fdr_specific": 0.0}  # fmt: skip
    text = verdict(figures, "specific")
    assert "20 of 200 (10.0%) readings of retrieved contexts pass and 0 of 30 (0.0%) of random ones" in text
    assert "in 5 of 13 roots; 18 are packed into 1 sequence." in text
    # Wilson's bounds: 11.35 % of random ones at most, 6.57 % of the retrieved at least; 0.1135 / (0.0657 (0.2 - 0.0657))^0.5 > 1.
    assert "0% of the dependencies are chance (95 % interval, were readings independent: 0% to 100%)" in text
    many = verdict(figures | {"cells_random": 3000.0}, "specific")
    assert "0% to 1%)" in many and "shares its topic" not in many
    both = verdict(figures | {"cells_same_root": 400.0, "pass_rate_same_root_specific": 0.02}, "specific")
    # 2 % of such contexts pass where 10 % of the retrieved do.
    assert both.endswith(
        "Of readings of contexts that another anchor of the root retrieved, which share its topic, 8 of 400 (2.0%) pass: "
        "a shared topic explains about 20% of the dependencies, chance included, the anchor's own query the rest."
    )
    assert verdict(figures | {"pass_rate_retrieved_specific": 0.0}, "specific").endswith(
        "No context that was retrieved passes the rule."
    )
    assert "not known: there are no random controls" in verdict({k: v for k, v in figures.items() if "random" not in k}, "specific")


def test_rank_words() -> None:
    assert "91% of the dependencies stand at rank 2 or better; the last rank is accepted in 10.0%" in rank_words(
        [Rate(1, 10, 6), Rate(2, 10, 4), Rate(3, 10, 1)]
    )
    assert (
        "All ranks are needed, and a larger one (retrieval.top_k) may find more: the last rank is accepted in 40.0%"
        in rank_words([Rate(1, 10, 6), Rate(2, 10, 4)])
    )
    assert rank_words([]) == rank_words([Rate(1, 5, 0)]) == "No candidate was accepted at any rank."


@pytest.fixture(scope="module")
def data(finished_runner: Runner) -> Gathered:
    return gather(finished_runner.state)


@pytest.mark.runtime
def test_the_numbers_are_those_of_the_tables(finished_runner: Runner, data: Gathered) -> None:
    profiles = finished_runner.state.ok_rows("scored_documents").collect()
    values = np.concatenate([np.frombuffer(row.entropy, "<f4")[finished_runner.config.anchors.min_position :] for row in profiles])
    assert data.entropy == dict(Counter(np.floor(values[np.isfinite(values)] / ENTROPY_BIN).astype(int).tolist()))
    readings = finished_runner.state.readings().collect()
    for kind, bins in data.gains.items():
        gains = [max(-1.0, reading.gain) for reading in readings if reading.kind == kind]
        assert bins == dict(Counter(int(np.floor(gain / GAIN_BIN)) for gain in gains))
    retrieved = [reading for reading in readings if reading.kind == "retrieved"]
    for rates, key in (
        (data.ranks, lambda reading: reading.rank),
        (data.scores, lambda reading: np.floor(reading.score / 0.05) * 0.05),
    ):
        assert {round(r.at, 2): r.total for r in rates} == Counter(round(float(key(reading)), 2) for reading in retrieved)
        assert sum(rate.accepted for rate in rates) == data.figures["dependencies"] == sum(reading.accepted for reading in readings)
    assert sum(data.distances.values()) == data.figures["packed_dependencies"]
    assert json.dumps(data.facts) and data.stages[0].seconds is not None


@pytest.mark.runtime
def test_what_a_sentence_is_worth_is_measured(finished_runner: Runner, data: Gathered, tiny_lm: Path, tmp_path: Path) -> None:
    roots = gallery(finished_runner.state)
    assert roots and not roots[0].drawn and any(root.shown for root in roots)
    model = CausalLM(tiny_lm, "float32", 0)
    scored = {r.root_id: r for r in finished_runner.state.ok_rows("scored_documents").collect()}
    positions = {r.root_id: [a.position for a in r.anchors]
                 for r in finished_runner.state.ok_rows("anchors").collect()}  # fmt: skip
    for root in roots:
        assert "".join(token.text for token in root.tokens) == model.tokenizer.decode(scored[root.root_id].input_ids)
        assert [place for place, token in enumerate(root.tokens) if token.anchor] == positions[root.root_id]
        for link in root.shown[:1]:
            at, ids = positions[root.root_id][link.anchor - 1], np.array(scored[root.root_id].input_ids, np.int32)
            context = "".join(piece.text for piece in link.context)
            pairs = [Pair(ids, np.array(model.encode(t), np.int32), np.array([at], np.int32), n)
                     for n, t in enumerate([context, *without_each(sentences(context))])]  # fmt: skip
            read = {
                p.tag: float(r.entropy_with[0])
                for p, r in measure(model, pairs, separator_ids=model.encode("\n\n"), batch_tokens=64)
            }
            assert read[0] == pytest.approx(link.entropy_with, abs=1e-3)
            shares = [(read[n + 1] - read[0]) / (link.entropy - read[0]) for n in range(len(link.context))]
            assert [piece.share for piece in link.context] == pytest.approx(shares, abs=0.02)
    page = report_page(data, roots, 0.4, "specific")
    assert re.search(r"<code>entropylong plan plan\.document_tokens=\d+ .*plan\.accepted_share=0\.\d+</code>", page)
    assert page.count("<h3>") == len(roots) and not re.search(r"https?://(?!www\.w3\.org/(2000/svg|1999/xlink))", page)
    _looked_at(page, tmp_path)


def _looked_at(page: str, folder: Path) -> None:
    """In Chromium, light and dark, wide and narrow: no error, no request but the file, nothing wider than the screen."""
    if CHROMIUM is None:
        assert "CI" not in os.environ, "the check of the page in a browser needs Chromium (Debian: apt-get install chromium)"
        return
    from playwright.sync_api import sync_playwright

    file = folder / "report.html"
    file.write_text(page)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme, width in (("light", 1100), ("dark", 390)):
            tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
            messages: list[str] = []
            requests: list[str] = []
            tab.on("console", lambda message, messages=messages: messages.append(message.text))
            tab.on("pageerror", lambda error, messages=messages: messages.append(str(error)))
            tab.on("request", lambda request, requests=requests: requests.append(request.url))
            tab.goto(file.as_uri())
            assert messages == [] and requests == [file.as_uri()]
            assert tab.locator("figure svg").count() == 5 and tab.locator(".anchor").count() > 0
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", paper))) > 600) == (scheme == "light")
        browser.close()


def test_nothing_packed_and_nowhere_to_write(
    finished_runner: Runner, finished: Path, open_runner: OpenRunner, tmp_path: Path
) -> None:
    with pytest.raises(NothingToDoError, match="report: nothing is packed under this config yet; run: entropylong run"):
        gather(open_runner(finished, "accept.epsilon=0.77").state)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="report: cannot write"):
        write_report(finished_runner.state, tmp_path / "file" / "report.html")
