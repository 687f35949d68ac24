"""The notebooks, run in a kernel as people run them; what they call, against the tables, the rule and the commands."""

from __future__ import annotations

import base64
import io
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from PIL import Image
from pyspark.sql import SparkSession
from rich.console import Console

from entropylong.config import load_config
from entropylong.entropy.anchors import find_anchors
from entropylong.errors import NothingToDoError, UsageError, WorkspaceError
from entropylong.notebook import arguments, open_pair, open_workspace, views
from entropylong.notebook.charts import comparing, costs, dependencies, entropy, pictures
from entropylong.notebook.views import OpenWorkspace
from entropylong.pipeline.state import PipelineState
from entropylong.planning.estimate import make_plan
from entropylong.reporting import status
from entropylong.reporting.inspect import inspect_root
from entropylong.reporting.report import write
from tests.conftest import CONF, MakeConfig, OpenRunner, versions
from tests.project.test_bundle import started

STORED = sorted((CONF.parent / "notebooks").glob("*.ipynb"))
# What Databricks puts among the names of a notebook, as far as we use it; and then a workspace that is not there.
ON_DATABRICKS = """
class dbutils:
    class widgets:
        defaults = {}
        @classmethod
        def text(cls, name, default, label): cls.defaults.setdefault(name, default)
        @classmethod
        def get(cls, name): return {"schema": "dev_jo", "overrides": "roots.share=0.5"}.get(name, cls.defaults[name])
from entropylong.notebook import arguments, open_here
print(arguments())
"""


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_stored_notebooks_are_clean(file: Path) -> None:
    notebook = nbformat.read(file, 4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert file.read_text() == nbformat.writes(notebook) + "\n", "format it with nbformat"  # type: ignore[no-untyped-call]
    assert notebook.metadata.keys() == {"kernelspec", "language_info"} and notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None), "clear all outputs"
        assert not cell.metadata and ("dbutils" not in cell.source)


@pytest.fixture(scope="module")
def ran(
    finished: Path, corpus: Path, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """All four, and one more of errors and widgets, one after the other in one kernel, whose session they share."""
    folder = tmp_path_factory.mktemp("notebooks")
    first, second = (Path(shutil.copytree(finished, folder / name)) for name in ("first", "second"))
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(make_config(first, corpus, "spark.master=local[1]").model_dump()))
    probe = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for source in (
        "'dbutils' in globals()", "from entropylong.notebook import open_workspace\nopen_workspace('demo', 'workspace=nowhere')",
        ON_DATABRICKS, "open_here()",
    ):  # fmt: skip
        probe.cells.append(nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call]
    before = versions(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENTROPYLONG_CONFIG", str(file))
        patch.setenv("ENTROPYLONG_OTHER", f"workspace={second} tables={second}/tables accept.epsilon=0.04")
        patch.delenv("ENTROPYLONG_WORKSPACE", raising=False)
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
        notebooks = {file.stem: nbformat.read(file, 4) for file in STORED} | {"probe": probe}  # type: ignore[no-untyped-call]
        try:
            for content in notebooks.values():
                # Nothing that one of them named is there for the next.
                content.cells.append(nbformat.v4.new_code_cell("%reset -f"))  # type: ignore[no-untyped-call]
                NotebookClient(content, km=manager, timeout=300, allow_errors=True).execute(reset_kc=True)
                content.cells.pop()
        finally:
            manager.shutdown_kernel()
    assert versions(first) == before, "a notebook reads only"
    yield notebooks


def outputs(content: Any) -> list[Any]:
    return [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]


PICTURES = {"01_entropy": 4, "02_dependencies": 4, "03_compare": 1, "04_cost": 2}


@pytest.mark.e2e
@pytest.mark.parametrize("name", PICTURES)
def test_notebooks_run_and_show_pictures(name: str, ran: dict[str, Any]) -> None:
    results = outputs(ran[name])
    failed = [(output.ename, output.evalue) for output in results if output.output_type == "error"]
    assert failed == [] and all(output.output_type == "execute_result" for output in results), "nothing is printed by the way"
    pictures = [Image.open(io.BytesIO(base64.b64decode(o.data["image/png"]))) for o in results if "image/png" in o.data]
    assert len(pictures) == PICTURES[name]
    for picture in pictures:
        colours = picture.convert("RGB").getcolors(picture.width * picture.height) or []
        assert min(picture.size) > 250 and len(colours) > 50, "there is something in it"
    assert len(results) == sum(cell.cell_type == "code" for cell in ran[name].cells), "each cell shows what it is about"


@pytest.mark.e2e
def test_notebooks_show_the_pages(ran: dict[str, Any]) -> None:
    pages = {name: [o.data["text/html"] for o in outputs(ran[name]) if "text/html" in o.data] for name in PICTURES}
    assert "scored_documents" in pages["01_entropy"][0] and "red = uncertain" in pages["01_entropy"][2]
    assert "&lt;h2&gt;Roots to read&lt;/h2&gt;" in pages["02_dependencies"][-1] and "<iframe" in pages["02_dependencies"][-1]
    assert "accept" not in pages["03_compare"][0] and "epsilon" in pages["03_compare"][0]
    assert "Reckoned with" in pages["04_cost"][-1]


@pytest.mark.e2e
def test_a_missing_workspace_is_one_line_and_widgets_are_read(ran: dict[str, Any]) -> None:
    without, missing, words, not_there = outputs(ran["probe"])
    assert without.data["text/plain"] == "False"
    assert missing.ename == "WorkspaceError" and len(missing.traceback) == 1 and "\n" not in missing.traceback[0]
    assert missing.traceback[0].startswith("error: no workspace at nowhere: nothing ran there; run `entropylong run --config demo")
    places = ["tables=main.dev_jo", "workspace=/Volumes/main/dev_jo/files", "roots.share=0.5"]
    assert words.text.strip() == str(("databricks", places, None))
    assert not_there.traceback[0].startswith("error: no workspace at /Volumes/main/dev_jo/files: nothing ran there")


class Widgets:
    """Databricks' widgets, with what somebody typed into them."""

    def __init__(self, typed: dict[str, str]) -> None:
        self.typed, self.defaults, self.widgets = typed, dict[str, str](), self

    def text(self, name: str, default: str, label: str) -> None:
        assert label
        self.defaults[name] = default

    def get(self, name: str) -> str:
        return self.typed.get(name, self.defaults[name])


def test_the_widgets_name_what_the_bundles_job_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of the pipeline's job, typed in: the same config, so the same fingerprints."""
    _, of_job, _ = started("entropylong_pipeline", "pack", monkeypatch)
    (source,) = of_job.sources.values()
    catalog, schema = of_job.tables.split(".")
    typed = f"sources.documents.kind=delta sources.documents.table={source.table} sources.documents.columns.doc_id=null "
    typed += f"model.name={of_job.model.name} encoder.name={of_job.encoder.name} roots.share={of_job.roots.share}"
    widgets = Widgets({"catalog": catalog, "schema": schema, "overrides": typed})
    monkeypatch.setattr(views, "_dbutils", lambda: widgets)
    config, overrides, _ = arguments("demo")
    opened = load_config(config, overrides)
    every = ("model", "encoder", "sources", "roots", "chunks", "anchors", "query", "retrieval", "contexts", "accept", "pack")
    assert opened.semantic(*every) == of_job.semantic(*every)
    assert opened.tables == of_job.tables and opened.workspace == f"/Volumes/{catalog}/{schema}/files"
    widgets.typed["catalog"] = " "
    with pytest.raises(UsageError, match=r"^widget catalog is empty; fill it in above and run the cell again$"):
        arguments()


def test_what_is_asked_of_open_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENTROPYLONG_OTHER", raising=False)
    with pytest.raises(UsageError, match="nothing to compare with"):
        open_pair("demo")
    monkeypatch.setenv("ENTROPYLONG_OVERRIDES", "roots.limit='3")
    with pytest.raises(UsageError, match=r'^overrides "roots.limit=\'3": No closing quotation$'):
        open_pair("demo", "accept.epsilon=0.3")


def test_a_dollar_in_ids_and_tokens_begins_no_formula() -> None:
    one = entropy.Profile("price $^$", list(range(64)), np.linspace(0, 6, 64), None)
    picture = pictures.root_profile(one, ["$$"] * 64, load_config("demo").anchors)
    assert picture._repr_png_().startswith(b"\x89PNG")


def test_a_workspace_is_found_from_a_folder_below(
    copied: Path, corpus: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    settings = make_config(copied, corpus).model_dump() | {"workspace": "workspace"}
    file.write_text(yaml.safe_dump(settings))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    opened = open_workspace(str(file))
    assert opened.state.config.workspace == str(copied) and str(copied) in repr(opened)
    with pytest.raises(WorkspaceError, match=r"no workspace at elsewhere: nothing ran there; run `entropylong run --config"):
        opened.with_("workspace=elsewhere")


@pytest.fixture(scope="module")
def opened(finished: Path, make_config: MakeConfig, corpus: Path, spark: SparkSession) -> Iterator[OpenWorkspace]:
    """Nothing here changes it: its readings are judged once."""
    state = PipelineState(make_config(finished, corpus), spark)
    yield OpenWorkspace(state, "demo", (), None)
    state.forget()


def test_views_are_what_the_commands_print(opened: OpenWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    state = opened.state
    root = entropy.profiles(state, most=1)[0].root_id

    def printed(content: Any) -> str:
        out = io.StringIO()
        Console(file=out, width=views.WIDTH, highlight=False).print(content)
        return out.getvalue()

    beside = {"fingerprint": "ab12", "rows": 7, "differs_by": "accept.epsilon=0.2"}
    row = {"stage": "ingest", "table": "documents", "counted": "documents",
           "rows_in": 1500, "done": 1499, "left": 1, "skipped": 0, "quarantined": 0,
           "rate": 2.5, "eta_seconds": 0.4, "others": [beside]}  # fmt: skip
    monkeypatch.setattr(status, "status_rows", lambda state: [row])
    text = repr(opened.status())
    assert text == printed(status.status_table([row], state.config.workspace)) + printed(status.others_table([row]))
    assert "1,499" in text and "1 file " in text and "accept.epsilon=0.2" in text
    assert repr(opened.inspect(root)) == printed(inspect_root(state, root))
    html = opened.inspect(root)._repr_html_()
    assert html.startswith("<pre style=") and "background-color: #" in html and "<html" not in html
    monkeypatch.setattr(write, "report_html", lambda state: f"<html>{state.config.workspace}</html>")
    page = opened.report()
    assert page.text == f"<html>{state.config.workspace}</html>" and 'srcdoc="&lt;html&gt;' in page._repr_html_()
    with pytest.raises(UsageError, match="nobody: not among the scored roots"):
        opened.inspect("nobody")


def test_entropy_is_that_of_the_tables(opened: OpenWorkspace) -> None:
    state = opened.state
    rule, roots = state.config.anchors, entropy.profiles(state)
    stored = {row.root_id: [a.position for a in row.anchors] for row in state.ok_rows("anchors").collect()}  # fmt: skip
    assert {one.root_id: one.anchors(rule).positions.tolist() for one in roots if len(one.anchors(rule).positions)} == stored
    table = entropy.by_alpha(roots, rule, [1.0, rule.alpha, 9.0])
    at_one = [len(find_anchors(one.entropy, alpha=1.0, min_position=rule.min_position).positions) for one in roots]
    assert table.loc[1.0, "anchors a root"] == pytest.approx(np.mean(at_one))
    assert table.loc[9.0, "roots without anchor"] == len(roots) and table["tau"].is_monotonic_increasing
    measured = entropy.measured_anchors(state, roots)
    assert Counter(measured["root_id"]) == {root: len(positions) for root, positions in stored.items()}
    worth = entropy.worth_of_alpha(measured, [1.0, rule.alpha, 2.6], rule.alpha)
    assert list(worth.index) == [rule.alpha, 2.6] and worth.loc[rule.alpha, ["anchors left", "dependencies kept"]].tolist() == [
        1,
        1,
    ]
    left = {root: find_anchors(one.entropy, alpha=2.6, min_position=rule.min_position).positions.tolist()
            for one in roots if (root := one.root_id)}  # fmt: skip
    assert worth.loc[2.6, "anchors left"] == pytest.approx(sum(map(len, left.values())) / len(measured))
    with pytest.raises(UsageError, match="nobody: not among the"):
        entropy.profile(roots, "nobody")


@pytest.mark.parametrize("rule", ["paper", "specific"])
def test_reasons_agree_with_the_verdicts(rule: str, finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(finished, f"accept.rule={rule}", "accept.min_excess=0.01", "accept.min_nll_drop=0.05")
    sample = dependencies.judged(runner.state)
    assert ((sample.readings["why"] == "accepted") == sample.readings[f"passes_{rule}"]).all()
    accepted = int(sample.readings["accepted"].sum())
    tables = dependencies.by_thresholds(sample)
    assert list(tables) == (["epsilon"] if rule == "paper" else ["epsilon", "min_excess", "min_nll_drop"])
    configured = dependencies.by_threshold(sample, "epsilon", [runner.config.accept.epsilon, 1.0])
    assert configured["dependencies"].tolist() == [accepted, 0] and accepted > 0
    of_random = sample.readings[sample.readings["kind"] == "random"]
    assert configured["random"].iloc[0] == pytest.approx(of_random[f"passes_{rule}"].mean())
    assert dependencies.refusals(sample).sum().tolist() == pytest.approx([1.0] * 3)
    misses = dependencies.near_misses(sample, 3)
    assert len(misses) == 3 and "accepted" not in set(misses["why"])
    best = sample.readings[sample.readings["accepted"]].nlargest(1, "gain").iloc[0]
    text = repr(dependencies.strongest(runner.state, 2))
    assert best["root_id"] in text and f"gain {best['gain']:.2f}" in text


def _roots(rng: np.random.Generator, rate: float, n: int) -> pd.DataFrame:
    cells = rng.integers(5, 40, n)
    passed = rng.binomial(cells, np.clip(rng.normal(rate, 0.1, n), 0, 1))
    return pd.DataFrame({"retrieved": cells, "passed_retrieved": passed, "same_root": 0, "passed_same_root": 0, "random": 0,
                         "passed_random": 0, "accepted": passed, "gain": 0.5 * passed, "roots": 1})  # fmt: skip


def test_intervals_over_roots_hold_the_truth_as_often_as_they_say() -> None:
    """Readings of one root belong together: its rate is its own. Without controls there is no figure of them."""
    held, trials = 0, 60
    for seed in range(trials):
        intervals = comparing.intervals(_roots(np.random.default_rng(seed), 0.3, 60))
        one = intervals["candidates that pass"]
        held += one.low <= 0.3 <= one.high
    assert 0.86 <= held / trials <= 1 and "random controls that pass" not in intervals
    assert intervals["mean gain of a dependency"] == comparing.Interval(0.5, 0.5, 0.5)
    first = _roots(np.random.default_rng(1), 0.2, 80)
    none = comparing.differences(first, first)["candidates that pass"]
    assert (none.value, none.low, none.high, none.verdict) == (0, 0, 0, "no difference shown")
    more = comparing.differences(first, _roots(np.random.default_rng(2), 0.4, 80))["candidates that pass"]
    assert more.verdict == "differs" and more.low < more.value < more.high
    alone = comparing.intervals(first[:1])["dependencies a root"]
    assert np.isnan(alone.low) and alone.verdict == "no difference shown", "one root has no spread"


def test_prices_are_those_of_the_plan(
    opened: OpenWorkspace, finished: Path, corpus: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(make_config(finished, corpus).model_dump()))
    keys = costs.measured(opened.state)
    figures = dependencies.latest_metrics(opened.state)
    assert keys["plan.anchors_per_root"] == pytest.approx(figures["anchors"] / figures["roots"], abs=0.01), "roots without any too"
    here = OpenWorkspace(opened.state, str(file), (), None)
    overrides = ["plan.documents=1000000", "roots.limit=1000", "retrieval.top_k=8"]
    plan = costs.plan_of(here, keys, *overrides)
    same = make_plan(
        load_config(file, ["plan.device=H100", *(f"{k}={v}" for k, v in keys.items()), *overrides]), lambda *_: pytest.fail()
    )
    assert plan.as_json() == same.as_json()
    stages, ways = costs.by_stage(plan, 2.0, 0.0), costs.by_way(plan, 2.0, 0.0)
    assert stages["price"].sum() == pytest.approx(2 * sum(stage.device_hours or 0 for stage in plan.stages))
    assert ways["exact"] == pytest.approx(stages["price"].sum()) and ways["literal"] > ways["exact"]
    with pytest.raises(UsageError, match=r"prices of 0 an hour of the device and 0\.1 a core: give one above 0"):
        costs.by_stage(plan, 0, 0.1)
    table = costs.over(here, keys, overrides, "retrieval.top_k", [4, 8], (2.0, 0.0))
    assert table.loc[8, "exact"] == pytest.approx(ways["exact"]) and table.loc[4, "exact"] < ways["exact"]
    with pytest.raises(NothingToDoError, match="nothing is packed under this config yet"):
        costs.measured(OpenWorkspace(opened.state, "demo", (), None).state.__class__(
            make_config(finished, corpus, "accept.epsilon=0.77"), opened.state.spark))  # fmt: skip
