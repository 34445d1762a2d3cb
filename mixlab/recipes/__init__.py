"""Recipes: the whole configuration of a training run, as functions.

A proxy run and the full-scale run differ in their recipe alone. A recipe is a frozen value;
a variant of one is `dataclasses.replace(recipe, ...)`, checked like any other.
"""

from collections.abc import Callable

from mixlab.errors import UnknownRecipe
from mixlab.recipes.definition import Anomaly, Precision, Recipe, Schedule
from mixlab.recipes.proxies import proxy_smoke, proxy_tiny, target_small
from mixlab.recipes.shape import Architecture
from mixlab.recipes.tinyllama import tinyllama_1b

__all__ = [
    "RECIPES",
    "Anomaly",
    "Architecture",
    "Precision",
    "Recipe",
    "Schedule",
    "proxy_smoke",
    "proxy_tiny",
    "recipe",
    "target_small",
    "tinyllama_1b",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "proxy_smoke": proxy_smoke,
    "proxy_tiny": proxy_tiny,
    "target_small": target_small,
    "tinyllama_1b": tinyllama_1b,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownRecipe, naming those there are."""
    if name not in RECIPES:
        raise UnknownRecipe(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]()
