"""How many rounds, and how long each is. Light, since the API checks requests with it."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from mixlab.errors import InvalidRecipe
from mixlab.recipes import Recipe
from mixlab.recipes.shape import whole

Unit = Literal["sequence", "batch"]


@dataclass(frozen=True)
class Rounds:
    """How a run's rounds are. Raises InvalidRecipe for numbers that are none."""

    count: int = 2
    share: float = 0.5  # of what the first round read; 0.5 is PanGu-pi Pro's
    unit: Unit = "sequence"
    keep_proportions: bool = True  # of the domains; else the drift is told
    learning_rate: float | None = None  # peak of later rounds; None is the recipe's

    def __post_init__(self) -> None:
        if not whole(self.count, 2):
            raise InvalidRecipe(
                f"Rounds are a whole number from 2 on, not {self.count!r}; one round is a run "
                "without any."
            )
        check_share(self.share)
        check_unit(self.unit)

    def recipes(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """Each round's recipe; their updates sum to the recipe's, and so do its evaluations.

        Every round is evaluated at its end too. Raises InvalidRecipe where a later round would
        have no update.
        """
        first = recipe.steps / (1 + (self.count - 1) * self.share)
        later = int(first * self.share)
        if later < 1:
            raise InvalidRecipe(
                f"{recipe.name} has {recipe.steps} updates, too few for {self.count} rounds at a "
                f"share of {self.share:g}; take more updates, or fewer rounds."
            )
        first_steps = recipe.steps - (self.count - 1) * later
        again = recipe.lasting(later)
        if self.learning_rate is not None:
            again = replace(again, learning_rate=self.learning_rate)
        begins = range(first_steps, recipe.steps, later)
        return (
            _evaluated(recipe.lasting(first_steps), recipe, 0),
            *[_evaluated(again, recipe, before) for before in begins],
        )


def _evaluated(part: Recipe, recipe: Recipe, before: int) -> Recipe:
    """A round after `before` updates, evaluated where the recipe is, and at its end."""
    steps = {step - before for step in recipe.evaluation_steps if step > before}
    within = {step for step in steps if step < part.steps}
    return replace(part, evaluation_steps=tuple(sorted({*within, part.steps})))


def check_share(share: float) -> None:
    """Raise InvalidRecipe for a share that draws nothing or everything."""
    if not 0 < share < 1:
        raise InvalidRecipe(
            f"A round draws a share above 0 and below 1 of what was read, not {share}; 0.5 is "
            "what PanGu-pi Pro recommends. For everything once more, train for longer."
        )


def check_unit(unit: str) -> None:
    """Raise InvalidRecipe for a unit that there isn't."""
    if unit not in get_args(Unit):
        raise InvalidRecipe(f"A round draws by sequence or by batch, not by {unit!r}.")
