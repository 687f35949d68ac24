"""`entropylong compare`: what is collected, what is paired, how sure the intervals are, and a page that stands alone."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from mlflow import MlflowClient

from entropylong.cli.app import call
from entropylong.errors import ComparisonError, UsageError
from entropylong.evaluation.benchmarks.record import Pairing
from entropylong.evaluation.benchmarks.section import Cell, Lines, Row
from entropylong.reporting.comparison.chart import lines_over
from entropylong.reporting.comparison.collect import collect
from entropylong.reporting.comparison.page import page
from entropylong.reporting.comparison.paired import Answered, Questions, differences
from entropylong.reporting.comparison.sections import compared, data_rows, draws, judged, scales
from tests.conftest import CONF, MakeConfig

TASKS = ("niah_single_1", "fwe")


def answers(values: dict[str, float], weights: dict[str, float] | None = None, prompts: str = "p") -> Questions:
    return {key: Answered(value, (weights or {}).get(key, 1.0), prompts) for key, value in values.items()}


def test_point_estimates_against_loops() -> None:
    """RULER: mean over rows, tasks, lengths, also where strata have other sizes. LongPPL: each key token counts once."""
    rng = np.random.default_rng(1)
    sizes = {("fwe", 4096): 3, ("vt", 4096): 9, ("fwe", 8192): 5}
    keys = [f"{task}/{length}/{n}" for (task, length), size in sizes.items() for n in range(size)]
    first, second = ({key: float(rng.random()) for key in keys} for _ in range(2))

    def by_loops(values: dict[str, float], tasks: tuple[str, ...], lengths: tuple[int, ...]) -> float:
        of_lengths = []
        for length in lengths:
            own = [[v for k, v in values.items() if k.startswith(f"{t}/{length}/")] for t in tasks]
            of_lengths.append(mean(mean(rows) for rows in own if rows))
        return 100 * mean(of_lengths)

    rows = {row.scope: row for row in differences(Pairing.STRATA, answers(first), answers(second))}
    assert list(rows) == ["overall", "4,096 tokens", "8,192 tokens", "fwe", "vt"]
    both: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "overall": (("fwe", "vt"), (4096, 8192)), "4,096 tokens": (("fwe", "vt"), (4096,)), "8,192 tokens": (("fwe",), (8192,)),
        "fwe": (("fwe",), (4096, 8192)), "vt": (("vt",), (4096,)),
    }  # fmt: skip
    for scope, (tasks, lengths) in both.items():
        assert rows[scope].reference == pytest.approx(by_loops(first, tasks, lengths))
        assert rows[scope].difference == pytest.approx(by_loops(second, tasks, lengths) - by_loops(first, tasks, lengths))
    assert [row.pairs for row in rows.values()] == [17, 12, 5, 8, 9]

    tokens = {key: float(rng.integers(1, 50)) for key in keys}
    (row,) = differences(Pairing.PERPLEXITY, answers(first, tokens), answers(second, tokens))
    nlls = [[values[key] for key in keys for _ in range(int(tokens[key]))] for values in (first, second)]
    assert (row.reference, row.other) == pytest.approx([math.exp(mean(own)) for own in nlls])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Strata of five, far apart from each other: as wide as they must be, not as wide as if strata were mixed."""
    rng = np.random.default_rng(7)
    strata = [(task, length) for task in ("a", "b", "c") for length in (1, 2)]
    gain = {name: place - 2.5 for place, name in enumerate(strata)}  # mean 0
    held, widths, trials = 0, [], 300
    for trial in range(trials):
        first = {f"{t}/{n}/{i}": float(rng.normal()) for t, n in strata for i in range(5)}
        second = {k: v + gain[k.split("/")[0], int(k.split("/")[1])] + 0.3 * float(rng.normal()) for k, v in first.items()}
        interval = differences(Pairing.STRATA, answers(first), answers(second), seed=trial)[0].interval
        assert interval is not None
        held += interval[0] <= 0 <= interval[1]
        widths.append(interval[1] - interval[0])
    assert 0.90 <= held / trials <= 0.985
    true = 2 * 1.96 * 100 * 0.3 / math.sqrt(30)
    assert mean(widths) == pytest.approx(true, rel=0.1)


def test_a_difference_is_said_of_enough_pairs_and_of_the_same_questions_only() -> None:
    def right(n: int, of: int) -> Questions:
        return answers({f"fwe/4096/{i}": float(i < n) for i in range(of)})

    few = differences(Pairing.STRATA, right(0, 5), right(5, 5))[0]
    assert few.interval is None and few.difference == 100 and few.verdict == "no difference shown", "five pairs are too few"
    assert differences(Pairing.STRATA, right(0, 8), right(8, 8))[0].verdict == "differs"
    alike = differences(Pairing.QUESTIONS, right(7, 20), right(7, 20))[0]
    assert (alike.difference, alike.different, alike.interval) == (0, 0, None)
    alone = answers({f"{task}/4096/0": 1.0 for task in "abcdefgh"})
    row = differences(Pairing.STRATA, answers(dict.fromkeys(alone, 0.0)), alone)[0]
    assert row.different == 8 and row.interval is None, "one question a task has no spread"
    assert differences(Pairing.STRATA, right(1, 9), answers({f"fwe/4096/{i}": 1.0 for i in range(9)}, prompts="other")) == []


def put(folder: Path, benchmark: str, model: str, values: dict[str, float], prompts: str = "p", **facts: Any) -> Path:
    """A result as an evaluation keeps it."""
    folder.mkdir(parents=True)
    own = {
        "benchmark": benchmark,
        "label": "",
        "model": model,
        "model_hash": model,
        "prompts": prompts,
        "documents": "d",
        "keys": "k",
    }
    scores: list[Any] = []
    if benchmark == "ruler":
        for task, length in dict.fromkeys(tuple(key.split("/")[:2]) for key in values):
            score = 100 * mean(v for k, v in values.items() if k.startswith(f"{task}/{length}/"))
            scores.append({"task": task, "length": int(length), "score": score, "interval": [0, 100], "rows": 9, "empty": 1})
    if benchmark == "longbench_v2":
        scores = [{"split": "Overall", "right": 1, "total": 9, "score": 11.1, "low": 2.0, "high": 43.5, "published": 27.6}]
    figures = {"longppl.long_ppl": 3.25, "longppl.ppl": 9.0} if benchmark == "longppl" else {"any": 1.0}
    (folder / "scores.json").write_text(json.dumps({"facts": own | facts, "figures": figures, "scores": scores}))
    (folder / "items.json").write_text(json.dumps({key: [value, 1.0] for key, value in values.items()}))
    return folder


def put_figures(folder: Path, recipe: str, **figures: float) -> None:
    folder.mkdir(parents=True)
    facts = {"recipe": recipe, "alpha": 2.0, "epsilon": 0.4, "layout": "spread"}
    (folder / "figures.json").write_text(json.dumps({"facts": facts, "figures": figures}))


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """A workspace with everything and one with all but LongBench; a table and MLflow's copies in the first."""
    for name, share in (("one", 0.3), ("two", 0.8)):
        for length in (8192, 131072):
            values = {f"{task}/{length}/{n}": float(n < 9 * share) for task in TASKS for n in range(9)}
            facts = {"lengths": [length], "tasks": list(TASKS), "samples": 9}
            put(tmp_path / name / "evaluation" / "ruler" / str(length), "ruler", name, values, f"p{length}", **facts)
        put(tmp_path / name / "evaluation" / "longppl" / "x", "longppl", name, {f"d{n}": 1 + share / 9 * n for n in range(9)})
        put_figures(
            tmp_path / name / "figures" / "verified-0", "verified", dependencies=40 * share, seconds_gains=5.0, gain_mean=0.5
        )
    put(tmp_path / "one" / "evaluation" / "longbench_v2" / "x", "longbench_v2", "one", {str(n): 0.0 for n in range(9)})
    (tmp_path / "one" / "tables" / "documents" / "_delta_log").mkdir(parents=True)
    for place in ("mlflow-artifacts/run/artifacts", "tables/documents/part=1"):
        (tmp_path / "one" / place).mkdir(parents=True)
        (tmp_path / "one" / place / "scores.json").write_text("{}")
    return [f"<b>one</b>={tmp_path / 'one'}", str(tmp_path / "two")]


def test_a_workspace_is_one_run(two: list[str], tmp_path: Path) -> None:
    runs = collect(two)
    assert [run.name for run in runs] == ["<b>one</b>", str(tmp_path / "two")]
    assert list(runs[0].evaluations) == ["ruler", "longbench_v2", "longppl"] and runs[0].data is not None
    whole = runs[0].evaluations["ruler"]
    assert len(whole.folders) == 2 and len(whole.questions) == 36 and whole.facts["lengths"] == [131072, 8192], "lengths are parts"
    ruler, *others = (one.section for one in judged(runs))
    assert ruler.columns == ["8K", "128K"] and not ruler.before and [one.heading for one in others] == ["LongBench-v2", "LongPPL"]
    assert ruler.groups[0].rows[0] == Row("mean, ", [Cell("33.33", "2 of 13 tasks")] * 2, 0, "mean")
    assert Row("published, Quest", [None, Cell("60.11")], kind="published") in ruler.groups[0].rows
    assert ruler.lines is not None and ruler.lines.runs[0] == (0, [pytest.approx(100 / 3)] * 2)
    assert ("EntropyLong", [91.5, 81.26]) in ruler.lines.published and ("Quest", [None, 60.11]) in ruler.lines.published
    assert scales() == ("RULER and LongBench-v2 in points of 100, where more is better; LongPPL as it is, where less is better")
    assert draws() == "RULER within each task and length, LongPPL over documents"
    assert ("verified dependencies", ["12", "32"]) in data_rows(runs) and "sequences" not in dict(data_rows(runs))
    apart = collect([f"a={tmp_path / 'one' / part}" for part in ("figures", "evaluation")] + [f"b={tmp_path / 'two'}"])
    assert apart[0].data == runs[0].data and apart[0].evaluations == runs[0].evaluations, "places of one name are one run"
    pairs = {pair.benchmark: pair.rows for pair in compared(runs)}
    assert [row.scope for row in pairs["ruler"]] == ["overall", "8,192 tokens", "131,072 tokens", *sorted(TASKS, reverse=True)]
    assert pairs["ruler"][0].pairs == 36 and pairs["ruler"][0].differs and "longbench_v2" not in pairs


def test_a_length_that_both_were_asked_is_paired_whatever_else_one_was_asked(tmp_path: Path) -> None:
    values = {f"fwe/{length}/{n}": float(n % 2) for length in (4096, 8192) for n in range(8)}
    facts = {"lengths": [4096, 8192], "samples": 8}
    put(tmp_path / "a", "ruler", "a", values, {"fwe/4096": "p", "fwe/8192": "q"}, **facts)  # type: ignore[arg-type]
    only = {key: 1 - value for key, value in values.items() if "8192" in key}
    put(tmp_path / "b", "ruler", "b", only, {"fwe/8192": "q"}, lengths=[8192], samples=8)  # type: ignore[arg-type]
    put(tmp_path / "c", "ruler", "c", only, {"fwe/8192": "r"}, lengths=[8192], samples=8)  # type: ignore[arg-type]
    runs = collect([f"{name}={tmp_path / name}" for name in "abc"])
    same, other = compared(runs)
    assert [(row.scope, row.pairs) for row in same.rows] == [("overall", 8), ("8,192 tokens", 8), ("fwe", 8)]
    assert other.rows == [], "other prompts of that length"
    assert '"fwe/4096"' not in page(runs, compared(runs))


def test_the_page_stands_alone(two: list[str], tmp_path: Path) -> None:
    put(tmp_path / "three" / "x", "ruler", "three", {"fwe/8192/0": 1.0}, "other", lengths=[8192])
    put(tmp_path / "three" / "y", "longppl", "three", {f"d{n}": 1 + 0.3 / 9 * n for n in range(9)})
    runs = collect([*two, f"three={tmp_path / 'three'}"])
    text = page(runs, compared(runs))
    assert text == page(runs, compared(runs)) and len(text) < 100_000
    # A picture names its namespaces and its own parts.
    others = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]*"|url\(#[\w-]+\)|xlink:href="#[\w-]+"', "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|\bsrc=|\bhref=", others), "nothing is fetched"
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "&lt;b&gt;one" in text and "<b>" not in text, "a name is no markup"

    class Balanced(HTMLParser):
        open_: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.open_ += [] if tag in ("meta", "br") else [tag]

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open_.pop() == tag

    parser = Balanced()
    parser.feed(text)
    assert parser.open_ == []
    for phrase in (
        "Not paired",
        "no difference shown",
        "differs",
        "of 13 tasks",
        "1 of 9",
        "3.250",
        "1 empty",
        "asked different tasks",
    ):
        assert phrase in text, phrase
    assert "What these depend on: runs differ in model" in text and text.count('id="ruler-line-') == 6
    short = collect([f"{name}={tmp_path / 'three'}" for name in "ab"])
    assert "ruler-line" not in page(short, compared(short)), "one length is no line"


def test_lines_of_a_chart_end_with_names_that_do_not_cover_each_other() -> None:
    def texts(lines: Lines) -> dict[str, float]:
        """What the picture says, and how far down it stands."""
        elements = ElementTree.fromstring(lines_over("name", lines)).iter("{http://www.w3.org/2000/svg}text")
        return {text.text or "": float(text.get("y", "nan")) for text in elements}

    published = [("B", [90.0, 80.0]), ("A", [None, 81.0]), ("C", [70.0, None]), ("D", [None, 80.5])]
    lines = Lines("", [8192, 131072], [(0, [10.0, None])], published, "")
    places = texts(lines)
    assert {"8K", "128K", "100"} <= set(places) and "0" not in places
    assert places["A"] + 9 < places["D"] and places["D"] + 9 < places["B"], "nine points high"
    assert abs(places["C"] - places["70"]) < 2, "another length's name is where its point is"
    assert "90" in texts(Lines("", [1000], [(0, [99.0])], [], "")) and "1,000" in texts(Lines("", [1000], [(0, [100.0])], [], ""))
    chart = lines_over("name", lines)
    assert chart.count('id="name-line-') == 5 and "var(--c0)" in chart and "var(--c1)" not in chart


def test_what_cannot_be_compared_is_said_in_one_line(two: list[str], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "two"
    figures, evaluation = str(one / "figures"), str(other / "evaluation")
    for error, message, words in (
        (UsageError, "1 run given", [str(one)]),
        (UsageError, "no such folder", [str(one), str(tmp_path / "three")]),
        (UsageError, "1 run given", [f"a={one}", f"a={one}"]),
        (ComparisonError, "no two runs have figures or one of ruler", [figures, evaluation]),
        (
            ComparisonError,
            "2 figures of data results .*one/figures/verified-0 .recipe verified.*two/fig",
            [str(tmp_path), evaluation],
        ),
        (ComparisonError, "holds no figures.json", [str(one / "tables"), str(other)]),
    ):
        with pytest.raises(error, match=message) as info:
            collect(words)
        assert "\n" not in str(info.value)
    put(one / "evaluation" / "ruler" / "again", "ruler", "another", {"fwe/8192/0": 1.0}, samples=9)
    with pytest.raises(ComparisonError, match=r"3 RULER results below it; give one of them: .*model another"):
        collect(two)
    (one / "evaluation" / "ruler" / "8192" / "items.json").unlink()
    with pytest.raises(ComparisonError, match=r"8192/items.json: not there, so models cannot be paired; evaluate again"):
        collect([f"a={one / 'evaluation' / 'ruler' / '8192'}", str(other)])
    (other / "figures" / "verified-0" / "figures.json").write_text("{}")
    with pytest.raises(ComparisonError, match=r"verified-0/figures.json: holds no figures"):
        collect([figures, str(other)])


def test_compare_writes_the_page_and_logs_it_once(
    two: list[str], make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_config(tmp_path / "work", tmp_path)  # which puts an MLflow store there
    put(tmp_path / "one" / "evaluation" / "attention" / "x", "attention", "one", {"1024/50/0": 0.1})
    command = ["compare", *two, "--config", str(CONF / "demo.yaml"), f"workspace={tmp_path / 'work'}"]
    assert call(command) == 0
    output = capsys.readouterr().out
    assert "differs" in output and "RULER" in output and "LongBench" not in output and "not compared: attention\n" in output
    file = Path(output.rpartition("Page: ")[2].strip())
    assert file.parent.parent == tmp_path / "work" / "comparisons" and "RULER" in file.read_text()
    assert call([*command, "--out", str(tmp_path / "page.html")]) == 0 and (tmp_path / "page.html").read_text() == file.read_text()
    client = MlflowClient(f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("entropylong")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["ruler.difference_1"] == pytest.approx(500 / 9) and run.data.params["run_0"].startswith("<b>one</b> (")
    assert len(client.get_metric_history(run.info.run_id, "ruler.difference_1")) == 1
    assert "compare.html" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert call([*command, "--out", str(tmp_path / "one")]) == 1 and "--out" in capsys.readouterr().err
