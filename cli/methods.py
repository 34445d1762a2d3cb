"""What `mixlab train` trains, from its options: a shape, and a run in parts."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from mixlab.growing.planning import Growth, factor_for, plan
from mixlab.recipes import Recipe
from mixlab.rounds.plan import Rounds

if TYPE_CHECKING:
    from mixlab.training.spec import RunSpec

AUTO = "auto"
SIZES = ("layers", "width", "heads", "kv_heads", "ffn_width")


def shaped(recipe: Recipe, given: str | None) -> Recipe:
    """The recipe with the sizes of `layers=20,width=1792`; as it is where none are given.

    Raises BadParameter for what names no size, and InvalidRecipe where they are no shape.
    """
    sizes: dict[str, Any] = {}
    for part in [] if given is None else given.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in SIZES or not number.isdecimal():
            raise typer.BadParameter(
                f"{part!r} is no size; give some of {', '.join(SIZES)} as layers=20,width=1792",
                param_hint="--shape",
            )
        if name in sizes:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--shape")
        sizes[name] = int(number)
    return recipe.in_shape(**sizes)


def growth_of(spec: "RunSpec", grow: str | None, grow_at: int | None, hosts: int) -> Growth | None:
    """How the run grows; None where it doesn't.

    Raises BadParameter for options that don't go together, InvalidRecipe for a factor that doesn't
    divide the depth, and InvalidBudget where no rule says when and no option does.
    """
    if grow is None:
        if grow_at is not None:
            raise typer.BadParameter("needs --grow", param_hint="--grow-at")
        return None
    if spec.start is not None:
        raise typer.BadParameter(
            "a branch goes on from its trunk's weights, and a grown run begins with a small "
            "model's; leave out --branch-from or --grow",
            param_hint="--grow",
        )
    if hosts > 1:
        raise typer.BadParameter(
            "a grown run is two runs after one another, which only one host starts by itself",
            param_hint="--hosts",
        )
    if grow != AUTO and not grow.isdigit():
        raise typer.BadParameter(f"{grow!r} is no whole number, nor {AUTO}", param_hint="--grow")
    shape = spec.recipe.architecture
    factor = factor_for(shape.layers, None if grow == AUTO else int(grow))
    tokens = plan(shape.parameters, spec.recipe.tokens).tokens if grow_at is None else grow_at
    return Growth(factor, tokens)


def rounds_of(
    rounds: int | None, share: float | None, free_proportions: bool, grow: str | None, hosts: int
) -> Rounds | None:
    """The run's rounds; None where it has one.

    Raises BadParameter for options that don't go together, and InvalidRecipe for numbers that are
    none.
    """
    if rounds is None:
        if share is not None or free_proportions:
            raise typer.BadParameter(
                "needs --rounds",
                param_hint="--free-proportions" if share is None else "--round-share",
            )
        return None
    if grow is not None:
        raise typer.BadParameter(
            "rounds and growth both say what the first updates train; leave out one of them",
            param_hint="--rounds",
        )
    if hosts > 1:
        raise typer.BadParameter(
            "rounds are runs after one another, which only one host starts by itself",
            param_hint="--hosts",
        )
    found = Rounds(rounds, keep_proportions=not free_proportions)
    return found if share is None else replace(found, share=share)
