"""Recipes: the whole configuration of a training run, as functions.

A proxy run and the full-scale run differ in their recipe alone. A recipe is a frozen value;
a variant of one is `dataclasses.replace(recipe, ...)`, checked like any other.
"""

from collections.abc import Callable

from mixlab.errors import UnknownRecipe
from mixlab.recipes.definition import Anomaly, Moments, Precision, Recipe, Schedule
from mixlab.recipes.ladder import (
    proxy_1m,
    proxy_5m,
    proxy_15m,
    proxy_60m,
    proxy_300k,
    regmix_1m,
)
from mixlab.recipes.pangu import pangu_pi_1_5b_pro, pangu_pi_1b_pro, pangu_pi_1b_released
from mixlab.recipes.proxies import proxy_smoke, proxy_tiny, target_small
from mixlab.recipes.rates import rate_for_batch
from mixlab.recipes.shape import Architecture, Flops
from mixlab.recipes.tinyllama import (
    tinyllama_1b,
    tinyllama_120m,
    tinyllama_v1_1,
    tinyllama_v1_1_mixture,
)

__all__ = [
    "RECIPES",
    "Anomaly",
    "Architecture",
    "Flops",
    "Moments",
    "Precision",
    "Recipe",
    "Schedule",
    "pangu_pi_1_5b_pro",
    "pangu_pi_1b_pro",
    "pangu_pi_1b_released",
    "proxy_1m",
    "proxy_5m",
    "proxy_15m",
    "proxy_60m",
    "proxy_300k",
    "proxy_smoke",
    "proxy_tiny",
    "rate_for_batch",
    "recipe",
    "regmix_1m",
    "target_small",
    "tinyllama_1b",
    "tinyllama_120m",
    "tinyllama_v1_1",
    "tinyllama_v1_1_mixture",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "proxy_smoke": proxy_smoke,
    "proxy_tiny": proxy_tiny,
    "target_small": target_small,
    "proxy_300k": proxy_300k,
    "proxy_1m": proxy_1m,
    "proxy_5m": proxy_5m,
    "proxy_15m": proxy_15m,
    "proxy_60m": proxy_60m,
    "regmix_1m": regmix_1m,
    "tinyllama_120m": tinyllama_120m,
    "pangu_pi_1b_released": pangu_pi_1b_released,
    "pangu_pi_1b_pro": pangu_pi_1b_pro,
    "tinyllama_1b": tinyllama_1b,
    "tinyllama_v1_1": tinyllama_v1_1,
    "pangu_pi_1_5b_pro": pangu_pi_1_5b_pro,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownRecipe, naming those there are."""
    if name not in RECIPES:
        raise UnknownRecipe(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]()
