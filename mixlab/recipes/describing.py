"""What a recipe comes to: its counts, costs and rates as plain values."""

from inspect import getdoc
from typing import Any

from mixlab.recipes.definition import Recipe
from mixlab.recipes.shape import Flops


def described(recipe: Recipe) -> dict[str, Any]:
    """Counts, costs and rates, ready for JSON; FLOPs are named by their formulas."""
    shape = recipe.architecture
    return {
        "name": recipe.name,
        "parameters": {
            "all": shape.parameters,
            "without_embedding": shape.parameters_without_embedding,
            "blocks": shape.block_parameters,
        },
        "flops_per_token": {formula.value: shape.flops_per_token(formula) for formula in Flops},
        "head_share_of_flops": shape.head_share,
        "flops": shape.flops_per_token() * recipe.tokens,
        "tokens": recipe.tokens,
        "tokens_per_step": {
            str(first): recipe.sequences(first) * shape.context
            for first in (1, *(first for first, _ in recipe.batch_stages))
        },
        "learning_rates": {
            "embedding_and_norms": recipe.learning_rate,
            "matrices": recipe.learning_rate * recipe.reading_scale,
        },
        "state_bytes": recipe.state_bytes,
        "recipe": recipe.to_dict(),
    }


def schedule_in_words(recipe: Recipe) -> str:
    """How the rate goes over the updates."""
    rise = f"{recipe.warmup_steps:,} updates up to {short_rate(recipe.learning_rate)}, then"
    final = short_rate(recipe.final_learning_rate or 0.0)
    if recipe.schedule == "constant":
        return f"{rise} constant"
    if recipe.schedule == "cosine":
        return f"{rise} a cosine to {final} at {recipe.steps:,}"
    plateau = recipe.steps - recipe.decay_steps
    return f"{rise} stable, from {plateau:,} in a line to {final} at {recipe.steps:,}"


def short_rate(rate: float) -> str:
    """A rate in three digits, 4e-5 and not 4e-05."""
    return f"{rate:.3g}".replace("e-0", "e-")


def story(made: object) -> tuple[str, str]:
    """First line and rest of a recipe function's own text, where its sources are."""
    first, _, rest = (getdoc(made) or "").partition("\n")
    return first, rest.strip()
