"""The registry of recipes: the config names all of them, and one more file is one more recipe everywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from entropylong.config import load_config
from entropylong.config.schema import Recipe
from entropylong.experiments.training import ARMS, TUNED_ON
from entropylong.maintenance.check import reassembled
from entropylong.packing import recipes
from entropylong.packing.recipes import RECIPES, recipe_of
from entropylong.packing.recipes.base import DocumentRunRecipe, GroupedRecipe, RecipeRecord
from entropylong.pipeline import preflight
from entropylong.pipeline.runner import Runner
from entropylong.reporting import wording
from entropylong.reporting.cards.dataset import dataset_card, gather_facts
from tests.conftest import OpenRunner
from tests.verification.variants import comment_above, one_more, records_in

BEST_LINK = '''
"""Of each root the accepted context with the largest gain."""
from entropylong.packing.recipes.base import GroupedRecipe
from entropylong.packing.recipes.verified import LINK

def best(judged, accept):
    from pyspark.sql import Window, functions as F
    order = Window.partitionBy("root_id").orderBy(F.desc("gain"), "chunk_id", "position")
    return judged.where("accepted").withColumn("place", F.row_number().over(order)).where("place = 1").select(*LINK)

RECORD = GroupedRecipe(name="best_link", text="A test's: one context a root.", is_verified=True, links=best)
'''
SHORT_FIRST = '''
"""Documents, the short ones first."""
from entropylong.packing.recipes.base import DocumentRunRecipe

def short_first(ctx, frames, budget):
    from pyspark.sql import functions as F
    from entropylong.packing.recipes.shared import encoded, whole_document
    name, place = F.col("doc_id").alias("document_run"), F.size("ids").cast("double").alias("place")
    return encoded(ctx, frames["documents"], "doc_id").select(name, place, F.array(whole_document()).alias("pieces"))

RECORD = DocumentRunRecipe(name="short_first", text="A test's: short documents.", document_runs=short_first)
'''


def test_the_config_and_its_comment_name_every_recipe() -> None:
    assert set(RECIPES) == set(get_args(Recipe)) == set(records_in(recipes))
    assert all(record.name == name for name, record in RECIPES.items())
    documents = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    assert [name for name in RECIPES if name not in comment_above("recipe") or f"`{name}`" not in documents] == []
    assert {*ARMS, TUNED_ON} <= set(RECIPES)


def test_what_each_recipe_says_of_itself() -> None:
    grouped = {name for name, record in RECIPES.items() if isinstance(record, GroupedRecipe)}
    assert grouped == {"verified", "noverify", "permuted"}
    assert all(isinstance(RECIPES[name], DocumentRunRecipe) for name in set(RECIPES) - grouped)
    assert {name for name, record in RECIPES.items() if record.is_verified} == {"verified", "permuted"}
    assert {name for name, record in RECIPES.items() if record.keeps_dependencies} == {"verified"}
    config = load_config("base", ["quest.model=asker"])
    assert {name: model for name, record in RECIPES.items() if (model := record.query_model(config))} == {"quest": "asker"}


@pytest.mark.parametrize(
    ("recipe", "is_shown"), [("verified", True), ("permuted", False), ("standard", False), ("gone", False), (None, False)]
)
def test_figures_of_dependencies_are_shown_where_these_stand(recipe: str | None, is_shown: bool) -> None:
    figures = {"packed_dependencies": 3.0, "distance_median": 9.0, "sequences": 2.0}
    assert wording.shown_metrics(recipe, figures) == (figures if is_shown else {"sequences": 2.0})


def test_the_query_model_is_prepared_where_the_recipe_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "prepare", lambda spec, cache: SimpleNamespace(path=spec.name))
    monkeypatch.setattr(preflight, "check_window", lambda config, path: None)
    for recipe, model, has_query in (("quest", "asker", True), ("quest", "null", False), ("knn", "asker", False)):
        specs, prepared = preflight.prepare_models(load_config("base", [f"pack.recipe={recipe}", f"quest.model={model}"]))
        assert ("query" in specs) == ("query" in prepared) == has_query
        assert not has_query or specs["query"].name.endswith("asker")


def test_another_recipe_is_one_file(copied: Path, tmp_path: Path, open_runner: OpenRunner) -> None:
    """One of each kind, packed under an epsilon at which the corpus has more tokens than the verified arm."""
    grouped = one_more(recipes, RECIPES, "best_link", RecipeRecord, BEST_LINK, tmp_path / "grouped")
    baseline = one_more(recipes, RECIPES, "short_first", RecipeRecord, SHORT_FIRST, tmp_path / "baseline")
    (tmp_path / "grouped").mkdir()
    (tmp_path / "baseline").mkdir()
    with grouped, baseline:
        packed, card = pack_by("best_link", copied, open_runner)
        links = [link for row in packed for link in row.dependencies]
        assert links and len(links) == len({link.root_id for link in links})
        assert "| dependencies |" in card and "groups (a root" in card
        packed, card = pack_by("short_first", copied, open_runner)
        assert {s.kind for row in packed for s in row.segments} <= {"start", "root", "separator", "pad"}
        assert packed and not any(row.dependencies for row in packed)
        assert "| dependencies |" not in card and "groups (a root" not in card


def pack_by(name: str, workspace: Path, open_runner: OpenRunner) -> tuple[list[Any], str]:
    """The sequences of a recipe that no config file may name, and their card."""
    first_runner = open_runner(workspace, "accept.epsilon=0.1")
    runner = Runner.open(first_runner.config.with_keys(pack={"recipe": name}), first_runner.state.spark)
    runner.run(["pack"])
    sequences = runner.state.ok_rows("sequences")
    packed, card = sequences.collect(), dataset_card(gather_facts(runner.state))
    assert {row.recipe for row in packed} == {name} and f"({name})" in card and recipe_of(runner.config).text in card
    assert reassembled(runner.state, sequences).wrong == 0
    return packed, card
