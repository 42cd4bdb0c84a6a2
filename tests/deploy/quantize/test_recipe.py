"""Recipes by name, and without some of their parts."""

from __future__ import annotations

import pytest

from deploy.cli import build
from deploy.errors import InputError
from deploy.quantize.recipe import PARTS, RECIPES, Recipe


def test_the_command_offers_what_there_is():
    assert tuple(RECIPES) == build.RECIPES
    assert set(PARTS) == set(build.PARTS)


def test_parts_can_be_left_out():
    recipe = Recipe.of("best", ["rounding", "equalization"])
    assert recipe.parts == ("reconstruction", "bias-correction")
    assert not recipe.equalizes
    assert recipe.corrects
    assert not Recipe.of("fast").corrects
    assert Recipe.of("fast").without("rounding") == Recipe.of("fast")


@pytest.mark.parametrize(
    ("name", "without", "text"),
    [
        ("fast", ["rounding"], "recipe fast has no part rounding (expected equalization)"),
        ("great", [], "unknown recipe (got great; expected fast, best)"),
    ],
)
def test_what_there_is_not_is_refused(name, without, text):
    with pytest.raises(InputError) as caught:
        Recipe.of(name, without)
    assert text in str(caught.value)
