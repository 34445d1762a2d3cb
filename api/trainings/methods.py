"""Methods that a training may ask for: growth, rounds, inheritance. Checked before any work."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.values import Body, Identifier, Tokens
from mixlab.errors import InvalidRecipe
from mixlab.growing.planning import factor_for, large_of, plan, small_of
from mixlab.recipes import Recipe
from mixlab.recipes.heirs import Importance
from mixlab.rounds.plan import Rounds
from mixlab.schedules import MixtureSchedule

MOST_FACTOR = 1000
MOST_ROUNDS = 100
MOST_CALIBRATION = 4096


class GrowthBody(Body):
    """A model of fewer layers is trained first, its blocks are repeated, and it is trained on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"factor": 2, "tokens": 200_000}]})

    factor: Annotated[int, Field(ge=2, le=MOST_FACTOR)] | None = Field(
        None, description="Layers of the recipe over the small model's; 4, or 3 or 2 if 4 can't."
    )
    tokens: Tokens | None = Field(
        None, description="That the small model sees; by the published rule, within its range."
    )


class RoundsBody(Body):
    """What a model still finds hard is trained on once more."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"count": 2, "share": 0.5}]})

    count: Annotated[int, Field(ge=2, le=MOST_ROUNDS)] = 2
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Of what the first round read, drawn for each later one."
    )
    unit: Literal["sequence", "batch"] = Field("sequence", description="What is drawn as one.")
    keep_proportions: bool = Field(
        True, description="Of the domains; else hard ones gain, and the job's result says how much."
    )


class InheritBody(Body):
    """The run begins with the best part of a larger one, instead of with random weights."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"training_id": "run_0199f2c4", "importance": "taylor"}]}
    )

    training_id: Identifier = Field(
        description="The donor: a training on the same corpus that has ended, or its job."
    )
    importance: Importance = Field("taylor", description="What a unit of the donor is worth.")
    sequences: Annotated[int, Field(ge=1, le=MOST_CALIBRATION)] = Field(
        64, description="Of the mixture, that importance and layers are measured on."
    )


def check_alone(**methods: Body | None) -> None:
    """Raise InvalidRecipe where several methods are given, by their names."""
    given = [name for name, body in methods.items() if body is not None]
    if len(given) > 1:
        raise InvalidRecipe(
            f"{', '.join(given[:-1])} and {given[-1]} exclude each other: each says what the first "
            "updates train; give one of them."
        )


def checked_methods(
    growth: GrowthBody | None, rounds: RoundsBody | None, recipe: Recipe, schedule: MixtureSchedule
) -> dict[str, Any]:
    """Growth or rounds as the job reads them, with what was left to a rule.

    Raises InvalidRecipe for what the recipe can't follow, and InvalidBudget for a growth without
    `tokens` outside of the rule's range.
    """
    if growth is not None:
        return {"growth": _growth(growth, recipe)}
    if rounds is not None:
        return {"rounds": _rounds(rounds, recipe, schedule)}
    return {}


def _growth(body: GrowthBody, recipe: Recipe) -> dict[str, Any]:
    shape = recipe.architecture
    factor = factor_for(shape.layers, body.factor)
    tokens = body.tokens or plan(shape.parameters, recipe.tokens).tokens
    large_of(recipe, small_of(recipe, factor, tokens))
    return {"factor": factor, "tokens": tokens}


def _rounds(body: RoundsBody, recipe: Recipe, schedule: MixtureSchedule) -> dict[str, Any]:
    if len(schedule.stages) > 1:
        raise InvalidRecipe(
            "rounds draw from what one mixture read, so a schedule of several stages can't have "
            "them; give one mixture, or leave out rounds."
        )
    found = Rounds(**body.model_dump())
    found.recipes(recipe)
    return asdict(found)
