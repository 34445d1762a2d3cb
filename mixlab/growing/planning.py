"""When to grow a model, and by how much: the plan of arXiv 2405.15319, within its range.

    log10(d) = 0.88 log10(N) + 163.27 / log10(C) - 5.74,    C = 6 N D

N are the target's parameters, D the token budget of the whole run, C its floating-point
operations, and d the tokens that the small model sees. The factor g is 4; the paper's optimum
lies between 2 and 4.

Range. The paper's models have 410M to 7B parameters, and its table of plans goes to 70B. d falls
as compute grows, so that short runs are told to grow at their end: 1.1B parameters on 22B tokens
after 20.6B. Where a gain was published the rule takes a small share of the budget, 9 % for 3B
parameters on 180B tokens and 7 % for 7B on 300B; beyond a fifth, a bound chosen here, nothing is
known of it.

Source: tongxuluo/prts at bf6f7747, README (the rule, its four cases, g).
"""

from dataclasses import dataclass, replace
from math import isfinite, log10
from typing import Literal, get_args

from mixlab.errors import InvalidBudget, InvalidRecipe
from mixlab.recipes import Recipe
from mixlab.recipes.shape import whole

FACTORS = (4, 3, 2)  # 4 is the paper's, the others lie within its optimum
LEAST_PARAMS, MOST_PARAMS = 410e6, 70e9
MOST_SHARE = 0.2  # of the budget, before the growth

Outside = Literal["refuse", "clamp"]
Operator = Literal["stack", "interleave", "zero"]


@dataclass(frozen=True)
class Growth:
    """How a run grows. Raises InvalidRecipe for numbers that are none, and unknown operators."""

    factor: int  # the large model's layers over the small one's
    tokens: int  # that the small model sees, at least; it ends with the update that reaches them
    operator: Operator = "stack"
    small_learning_rate: float | None = None  # the small run's peak; None is the recipe's

    def __post_init__(self) -> None:
        for name, least in (("factor", 2), ("tokens", 1)):
            value = getattr(self, name)
            if not whole(value, least):
                raise InvalidRecipe(
                    f"A growth's {name} must be a whole number from {least} on, not {value!r}."
                )
        if self.operator not in get_args(Operator):
            raise InvalidRecipe(
                f"Models grow by {', '.join(get_args(Operator))}, not by {self.operator!r}."
            )


@dataclass(frozen=True)
class GrowthPlan:
    """When to grow, and what it rests on."""

    tokens: int  # d: what the small model sees
    budget_tokens: int  # D: what small and large see together
    params: int  # N: of the large one
    flops: float  # C = 6 N D
    rule_tokens: float  # what the rule gives by itself
    note: str = ""  # what lies outside of the rule's range; empty where nothing does


def rule_tokens(params: float, budget_tokens: float) -> float:
    """d of the rule for N parameters and D tokens, whether or not they lie in its range."""
    compute = log10(6 * params * budget_tokens)
    return float(10 ** (0.88 * log10(params) + 163.27 / compute - 5.74))


def plan(params: int, budget_tokens: int, *, outside: Outside = "refuse") -> GrowthPlan:
    """When to grow a model of `params` parameters that sees `budget_tokens` in all.

    Outside of the rule's range, "clamp" takes at most a fifth of the budget and says why.
    Raises InvalidBudget there otherwise, and for numbers below 1.
    """
    for name, value in (("parameters", params), ("tokens", budget_tokens)):
        if not (isfinite(value) and value >= 1):
            raise InvalidBudget(f"A plan needs 1 or more {name}, not {value}.")
    found = rule_tokens(params, budget_tokens)
    reasons = " and ".join(_outside(params, budget_tokens, found))
    if reasons and outside == "refuse":
        raise InvalidBudget(
            f"The rule for when to grow doesn't hold here: {reasons}. Say after how many tokens, "
            f"at most {int(MOST_SHARE * budget_tokens)} to stay near what was published, or "
            "train without growth."
        )
    most = MOST_SHARE * budget_tokens
    tokens, note = found, f"The rule's own tokens, though {reasons}." if reasons else ""
    if found > most:
        tokens, note = most, f"Not the rule's {found:.4g} tokens but a fifth: {reasons}."
    return GrowthPlan(int(tokens), budget_tokens, params, 6.0 * params * budget_tokens, found, note)


def _outside(params: int, budget_tokens: int, found: float) -> list[str]:
    """What lies outside of the rule's range, in words."""
    reasons = []
    if not LEAST_PARAMS <= params <= MOST_PARAMS:
        reasons.append(
            f"{params} parameters are outside of {LEAST_PARAMS:.0f} to {MOST_PARAMS:.0f}"
        )
    if found > MOST_SHARE * budget_tokens:
        reasons.append(
            f"it would grow after {found:.4g} tokens, {100 * found / budget_tokens:.0f} % of the "
            f"budget of {budget_tokens}, where published runs grew within a tenth or so"
        )
    return reasons


def factor_for(layers: int, factor: int | None = None) -> int:
    """By how much a model of that depth is stacked: the factor given, else 4, 3 or 2.

    Where 4 doesn't divide the depth the largest of 3 and 2 that does is taken: 2 for
    TinyLlama's 22 layers. Raises InvalidRecipe where none does, with depths that would do.
    """
    if factor is None:
        found = next((one for one in FACTORS if layers % one == 0), None)
        if found is not None:
            return found
        tried = "4, 3 or 2"
    elif not whole(factor, 2):
        raise InvalidRecipe(f"A model grows by a whole factor of at least 2, not {factor!r}.")
    elif layers % factor == 0:
        return factor
    else:
        tried = str(factor)
    raise InvalidRecipe(
        f"{layers} layers are not {tried} times as many as a smaller model's; {_ways_out(layers)}."
    )


def _ways_out(layers: int) -> str:
    divisors = [str(one) for one in FACTORS if layers % one == 0]
    below, above = layers // 4 * 4, (layers // 4 + 1) * 4
    depths = f"{below} or {above}" if below else f"{above}"
    others = f"grow by {' or '.join(divisors)}, or " if divisors else ""
    return f"{others}take a recipe of {depths} layers, which 4 divides"


def small_of(
    recipe: Recipe, factor: int, tokens: int, *, learning_rate: float | None = None
) -> Recipe:
    """The run before the growth: the recipe with layers / factor, on its first `tokens` or more.

    It ends with the update that reaches them. Batches, context, vocabulary and warm-up are the
    recipe's; the rate then stays at its peak, since the paper's cosine, meant for the whole run,
    has hardly fallen by then (5,000 of 300,000 updates). `learning_rate` is the small run's peak
    where it differs: the paper took 1e-3 before and 3e-4 after.

    Raises InvalidRecipe for a factor that doesn't divide the depth, and for tokens that are
    none, or leave no update for the large model.
    """
    factor = factor_for(recipe.architecture.layers, factor)
    steps = _steps_for(recipe, tokens)
    shape = replace(recipe.architecture, layers=recipe.architecture.layers // factor)
    return replace(
        recipe,
        name=f"{recipe.name}_small",
        architecture=shape,
        steps=steps,
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
        warmup_steps=min(recipe.warmup_steps, steps),
        schedule="constant",
        final_learning_rate=None,
        decay_steps=0,
        evaluation_steps=(*(s for s in recipe.evaluation_steps if s < steps), steps),
        batch_stages=tuple(stage for stage in recipe.batch_stages if stage[0] <= steps),
    )


def large_of(recipe: Recipe, small: Recipe) -> Recipe:
    """The run after the growth: the recipe without the updates that the small run made.

    Together they have the recipe's tokens, in its batches. Updates count from 1 again, and
    with them warm-up, schedule and evaluations; the warm-up is the recipe's own, as far as
    there are updates for it.
    """
    before = small.steps
    steps = recipe.steps - before
    decay = min(recipe.decay_steps, steps)
    return replace(
        recipe,
        steps=steps,
        warmup_steps=min(recipe.warmup_steps, steps - decay),
        decay_steps=decay,
        evaluation_steps=tuple(
            sorted({*(s - before for s in recipe.evaluation_steps if s > before), steps})
        ),
        batch_sequences=recipe.sequences(before + 1),
        batch_stages=tuple((s - before, n) for s, n in recipe.batch_stages if s > before + 1),
    )


def _steps_for(recipe: Recipe, tokens: int) -> int:
    """The first update that reaches so many tokens."""
    most = recipe.tokens_before(recipe.steps)
    if not whole(tokens, 1) or tokens > most:
        raise InvalidRecipe(
            f"{recipe.name} has {recipe.tokens} tokens; it can grow after 1 to {most} of them, "
            f"not after {tokens!r}."
        )
    low, high = 1, recipe.steps - 1
    while low < high:
        middle = (low + high) // 2
        reached = recipe.tokens_before(middle + 1) >= tokens
        low, high = (low, middle) if reached else (middle + 1, high)
    return low
