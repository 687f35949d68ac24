"""Recipes: what becomes a sequence. One file per recipe, whose `RECORD` holds all that varies: `pack`, figures, cards read it."""

from __future__ import annotations

from typing import cast, get_args

from entropylong.config import Config, schema
from entropylong.packing.recipes.base import Recipe, RecipeRecord
from entropylong.utils.registry import load_records

# A record is of one of two kinds, and no third one.
RECIPES = cast(dict[str, Recipe], load_records(__name__, get_args(schema.Recipe), RecipeRecord))


def recipe_of(config: Config) -> Recipe:
    """The record of the recipe that a config names."""
    return RECIPES[config.pack.recipe]
