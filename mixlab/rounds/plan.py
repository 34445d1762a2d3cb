"""How many rounds, and how long each is. Without torch, since requests are checked with it."""

from dataclasses import dataclass, replace

from mixlab.errors import InvalidRecipe
from mixlab.recipes import Recipe
from mixlab.recipes.shape import whole
from mixlab.rounds.drawing import Unit, check_share, check_unit


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
        """Each round's recipe; their updates sum to the recipe's.

        Raises InvalidRecipe where a later round would have no update.
        """
        first = recipe.steps / (1 + (self.count - 1) * self.share)
        later = int(first * self.share)
        if later < 1:
            raise InvalidRecipe(
                f"{recipe.name} has {recipe.steps} updates, too few for {self.count} rounds at a "
                f"share of {self.share:g}; take more updates, or fewer rounds."
            )
        again = recipe.lasting(later)
        if self.learning_rate is not None:
            again = replace(again, learning_rate=self.learning_rate)
        return (
            recipe.lasting(recipe.steps - (self.count - 1) * later),
            *[again] * (self.count - 1),
        )
