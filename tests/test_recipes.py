"""Recipes: whole, consistent, and the same after a trip through JSON."""

import json
from dataclasses import replace

import pytest

from mixlab.errors import InvalidRecipe, UnknownRecipe
from mixlab.recipes import RECIPES, Architecture, Recipe, proxy_tiny, recipe, target_small


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(
        UnknownRecipe, match=r"no recipe 'huge'; there are .*proxy_tiny, target_small"
    ):
        recipe("huge")


def test_tinyllama_is_the_published_one() -> None:
    made = recipe("tinyllama_1b")
    assert made.architecture.parameters == 1_100_048_384
    assert made.tokens_per_step == 2_097_152
    assert made.tokens == pytest.approx(3e12, rel=1e-4)


def test_the_target_is_about_four_proxies_in_parameters_and_tokens() -> None:
    small, large = proxy_tiny(), target_small()
    assert 3 < large.architecture.parameters / small.architecture.parameters < 5
    assert 3 < large.tokens / small.tokens < 5
    assert small.schedule == large.schedule == "constant"
    assert small.warmup_steps <= small.evaluation_steps[0]


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation_steps": ()},
        {"evaluation_steps": (0, 10)},
        {"evaluation_steps": (20, 10)},
        {"evaluation_steps": (10, 10)},
        {"evaluation_steps": (10**9,)},
        {"steps": 0},
        {"batch_sequences": 0},
    ],
)
def test_numbers_that_contradict_each_other_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidRecipe):
        replace(proxy_tiny(), **change)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(65, 4, 2), (60, 4, 2), (64, 4, 3)])
def test_heads_must_divide_evenly(width: int, heads: int, kv_heads: int) -> None:
    with pytest.raises(InvalidRecipe):
        Architecture(1, width, heads, kv_heads, 8, 16, 4, True)


def test_another_length_is_evaluated_at_its_quarters() -> None:
    longer = proxy_tiny().lasting(1000)
    assert longer.evaluation_steps == (250, 500, 750, 1000)
    assert longer.tokens == 1000 * proxy_tiny().tokens_per_step
    with pytest.raises(InvalidRecipe, match="at least 1 step"):
        proxy_tiny().lasting(0)


def test_a_recipe_widens_for_a_larger_vocabulary_only() -> None:
    assert proxy_tiny().for_vocabulary(1000) == proxy_tiny()
    assert proxy_tiny().for_vocabulary(5000).architecture.vocabulary == 5000
