"""A recipe: a training run without its mixture, corpus and seed.

Updates are counted from 1, weight updates and never micro-batches: how a batch is cut to fit
a device is no part of a recipe and changes no number here.

A final rate equal to the peak is refused: TinyLlama's first weeks ran so, a cosine that never
fell (jzhang38/TinyLlama, issue 27).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, pairwise
from math import isfinite
from typing import Any, Literal, get_args

from mixlab.errors import InvalidRecipe
from mixlab.recipes.shape import Architecture, whole

Schedule = Literal["constant", "cosine", "wsd"]
Precision = Literal["auto", "float32", "bfloat16"]
Moments = Literal["float32", "bfloat16"]
Anomaly = Literal["fail", "skip", "roll_back"]

# 2^-8 is what half a unit in the last place of bfloat16 is at most, relative to the value: a
# smaller share of the newest gradient would be rounded away, and moments would never shrink.
BFLOAT16_LEAST_NEWS = 2.0**-8

MOST_TOKENS = 2**63 - 1  # what 64 bits count, in batches as in the ledger


@dataclass(frozen=True)
class Recipe:
    """A training run without its mixture, corpus and seed.

    Raises InvalidRecipe for values that contradict each other (the functions below have the rules).
    """

    name: str
    architecture: Architecture
    steps: int
    batch_sequences: int
    learning_rate: float
    warmup_steps: int
    evaluation_steps: tuple[int, ...]
    evaluation_tokens: int  # per domain, at each evaluation
    schedule: Schedule = "constant"
    final_learning_rate: float | None = None  # of "cosine" and "wsd"; None is 0
    decay_steps: int = 0  # of "wsd": the last updates, in which the rate falls linearly
    base_width: int | None = None  # learning_rate was tuned at this width: maximal update
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    # (update from which on, sequences) of later batch sizes, rising; updates counted from 1.
    batch_stages: tuple[tuple[int, int], ...] = ()
    precision: Precision = "auto"  # of matrix products; weights are float32 in each case
    moments: Moments = "float32"  # how AdamW's state is kept
    activation_checkpointing: bool = False  # a third more arithmetic for much less memory
    on_anomaly: Anomaly = "fail"  # a loss or gradient that is no number, or a spike
    spike_nats: float | None = None  # a batch's loss so far above the recent ones; None: no limit
    compiled: bool = True

    def __post_init__(self) -> None:
        for rule in _broken_rules(self):
            raise InvalidRecipe(f"{self.name}: {rule}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one weight update sees, before any of `batch_stages`."""
        return self.batch_sequences * self.architecture.context

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.tokens_before(self.steps + 1)

    def sequences(self, step: int) -> int:
        """Sequences of update number `step`, counted from 1."""
        begun = [sequences for first, sequences in self.batch_stages if first <= step]
        return begun[-1] if begun else self.batch_sequences

    def tokens_before(self, step: int) -> int:
        """Tokens of all updates before number `step`, counted from 1."""
        firsts = [1, *(first for first, _ in self.batch_stages)]
        sizes = [self.batch_sequences, *(sequences for _, sequences in self.batch_stages)]
        ends = [*firsts[1:], max(step, firsts[-1])]
        done = [max(0, min(step, b) - a) for a, b in zip(firsts, ends, strict=True)]
        sequences = sum(n * size for n, size in zip(done, sizes, strict=True))
        return sequences * self.architecture.context

    @property
    def reading_scale(self) -> float:
        """Factor of the rate of matrices that read the stream; 1 but by maximal update."""
        return 1.0 if self.base_width is None else self.base_width / self.architecture.width

    @property
    def state_bytes(self) -> int:
        """Memory of weights, gradients and AdamW's two moments, before any activation."""
        per_parameter = 4 + 4 + 2 * (2 if self.moments == "bfloat16" else 4)
        return per_parameter * self.architecture.parameters

    def lasting(self, steps: int) -> "Recipe":
        """The same recipe for another number of steps, evaluated at its four quarters.

        What is stated from the run's end keeps its share of the run: the decay of "wsd" and
        the updates from which on batches are larger. The warm-up keeps its updates, as far as
        the shorter run has them.
        """
        if steps < 1:
            raise InvalidRecipe(f"A run needs at least 1 step, not {steps}.")
        quarters = sorted({max(1, steps * quarter // 4) for quarter in (1, 2, 3, 4)})
        decay = max(1, self.decay_steps * steps // self.steps) if self.decay_steps else 0
        stages = {
            1 + (first - 1) * steps // self.steps: sequences
            for first, sequences in self.batch_stages
        }
        return replace(
            self,
            steps=steps,
            evaluation_steps=tuple(quarters),
            decay_steps=decay,
            warmup_steps=min(self.warmup_steps, steps - decay),
            batch_sequences=stages.pop(1, self.batch_sequences),
            batch_stages=tuple(stages.items()),
        )

    def decayed(self, *, after: int, decay_steps: int, final: float | None = None) -> "Recipe":
        """The end point that branches off after update `after`: its decay, then the end.

        Equal to this recipe up to that update, so one run at its peak rate gives many decayed
        end points, each for its decay alone. Raises InvalidRecipe where the rate has already
        left its peak at `after`, or the warm-up isn't over.
        """
        if decay_steps < 1:
            raise InvalidRecipe(f"A decay needs at least 1 update, not {decay_steps}.")
        plateau = (self.warmup_steps, self.steps - self.decay_steps)
        if self.schedule == "cosine":
            raise InvalidRecipe(
                f"{self.name} leaves its peak rate at once, by a cosine; take a constant or "
                "wsd recipe."
            )
        if not plateau[0] <= after <= plateau[1]:
            raise InvalidRecipe(
                f"{self.name} has its peak rate from update {plateau[0]} to {plateau[1]}; a decay "
                f"can't begin after {after}."
            )
        steps = after + decay_steps
        return replace(
            self,
            steps=steps,
            schedule="wsd",
            decay_steps=decay_steps,
            final_learning_rate=final,
            evaluation_steps=(*(s for s in self.evaluation_steps if s <= after), steps),
            batch_stages=tuple(s for s in self.batch_stages if s[0] <= steps),
        )

    def for_vocabulary(self, vocabulary: int) -> "Recipe":
        """The recipe with room for every token: widened where the tokenizer has more.

        Never narrowed: a recipe's shape is what its parameters, FLOPs and tuned rate were told of,
        some tables are wider than their tokenizers on purpose, and a run's folder goes by it.
        """
        if vocabulary <= self.architecture.vocabulary:
            return self
        return replace(self, architecture=replace(self.architecture, vocabulary=vocabulary))

    def in_shape(
        self,
        *,
        layers: int | None = None,
        width: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        ffn_width: int | None = None,
        tied_head: bool | None = None,
    ) -> "Recipe":
        """The same recipe for another shape, such as one that a search found.

        What is left out stays the recipe's. Raises InvalidRecipe where that is no shape.
        """
        sizes: dict[str, Any] = {
            "layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads,
            "ffn_width": ffn_width, "tied_head": tied_head,
        }  # fmt: skip
        given = {name: size for name, size in sizes.items() if size is not None}
        return replace(self, architecture=replace(self.architecture, **given))

    def for_tables(self, rows: int, *, vocabulary: int) -> "Recipe":
        """The recipe for weights with so many rows of embedding and head, which it begins with.

        As `for_vocabulary`, but narrowed to the rows where they hold every token, as those of a
        model that followed a compressed tokenizer do.
        """
        wide = self.for_vocabulary(vocabulary)
        if not vocabulary <= rows <= wide.architecture.vocabulary:
            return wide
        return replace(wide, architecture=replace(wide.architecture, vocabulary=rows))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Recipe":
        """What `to_dict` wrote. Raises InvalidRecipe for anything else."""
        try:
            values = dict(data)
            values["architecture"] = Architecture(**values["architecture"])
            values["evaluation_steps"] = tuple(values["evaluation_steps"])
            if "betas" in values:
                values["betas"] = tuple(values["betas"])
            values["batch_stages"] = tuple(tuple(s) for s in values.get("batch_stages", ()))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as problem:
            raise InvalidRecipe(
                f"A recipe is what Recipe.to_dict() writes, not {data!r:.200} ({problem!r})."
            ) from problem


def _broken_rules(recipe: Recipe) -> Iterator[str]:
    """Each broken rule in words; nothing for a sound recipe."""
    checks = (_counts, _evaluations, _batches, _rates, _schedule, _optimiser, _guards)
    return chain.from_iterable(check(recipe) for check in checks)


def _counts(recipe: Recipe) -> Iterator[str]:
    least = {
        "steps": 1, "batch_sequences": 1, "evaluation_tokens": 1,
        "warmup_steps": 0, "decay_steps": 0,
    }  # fmt: skip
    for name, low in least.items():
        value = getattr(recipe, name)
        if not whole(value, low):
            yield f"{name} must be a whole number of at least {low}, not {value}."


def _evaluations(recipe: Recipe) -> Iterator[str]:
    steps = recipe.evaluation_steps
    if not steps or not _rising(steps) or steps[-1] > recipe.steps or not _whole(steps):
        yield (
            f"evaluation_steps must be whole numbers that rise from at least 1 to at most "
            f"{recipe.steps}, not {steps}."
        )


def _batches(recipe: Recipe) -> Iterator[str]:
    firsts = [first for first, _ in recipe.batch_stages]
    sound = _rising(firsts) and _whole(firsts) and 1 not in firsts
    if firsts and not (sound and firsts[-1] <= recipe.steps):
        yield (
            f"batch_stages must begin at rising updates from 2 to {recipe.steps}, not at "
            f"{firsts}; batch_sequences is the size before the first of them."
        )
    for first, sequences in recipe.batch_stages:
        if not whole(sequences, 1):
            yield f"the batch from update {first} on must be at least 1 sequence, not {sequences}."
            return
    if recipe.tokens > MOST_TOKENS:
        yield f"a run of {recipe.tokens} tokens is longer than anything counts; take fewer steps."


def _rates(recipe: Recipe) -> Iterator[str]:
    peak, final = recipe.learning_rate, recipe.final_learning_rate
    if not (isfinite(peak) and peak > 0):
        yield f"learning_rate must be a finite number above 0, not {peak}."
    if final is None:
        return
    if recipe.schedule == "constant":
        yield f"a constant rate has no final_learning_rate, but it is {final}; leave it None."
    if not 0 <= final < peak:
        yield (
            f"final_learning_rate must be from 0 to below the peak of {peak:g}, not {final:g}; "
            'for a rate that stays, take the schedule "constant".'
        )


def _schedule(recipe: Recipe) -> Iterator[str]:
    yield from _one_of(recipe, "schedule")
    if recipe.warmup_steps > recipe.steps:
        yield f"warmup_steps {recipe.warmup_steps} exceed the {recipe.steps} steps; shorten it."
    plateau = recipe.steps - recipe.warmup_steps
    if recipe.schedule == "wsd" and not 1 <= recipe.decay_steps <= plateau:
        yield (
            f"decay_steps must be from 1 to {plateau}, the steps after the warm-up, not "
            f'{recipe.decay_steps}; for no decay take the schedule "constant".'
        )
    if recipe.schedule != "wsd" and recipe.decay_steps:
        yield f'decay_steps belong to the schedule "wsd", not to {recipe.schedule!r}; give 0.'


def _optimiser(recipe: Recipe) -> Iterator[str]:
    if len(recipe.betas) != 2 or not all(0 <= beta < 1 for beta in recipe.betas):
        yield f"betas must be two numbers from 0 to below 1, not {recipe.betas}."
    if not (isfinite(recipe.weight_decay) and recipe.weight_decay >= 0):
        yield f"weight_decay must be a finite number of at least 0, not {recipe.weight_decay}."
    if not recipe.gradient_clip > 0:
        yield f"gradient_clip must be above 0, not {recipe.gradient_clip}; inf is no clip."
    yield from _one_of(recipe, "moments")
    if recipe.moments == "bfloat16" and max(recipe.betas) > 1 - BFLOAT16_LEAST_NEWS:
        yield (
            f"moments in bfloat16 stand still with betas above {1 - BFLOAT16_LEAST_NEWS}, and "
            f'these are {recipe.betas}; keep them in "float32".'
        )
    yield from _maximal_update(recipe)


def _maximal_update(recipe: Recipe) -> Iterator[str]:
    if recipe.base_width is None:
        return
    if not whole(recipe.base_width, 1):
        yield f"base_width must be a whole number of at least 1, not {recipe.base_width}."
    if recipe.architecture.tied_head:
        yield (
            "a base_width needs an untied head, since embedding and head learn at different "
            "rates; set tied_head to False, or base_width to None."
        )


def _guards(recipe: Recipe) -> Iterator[str]:
    yield from _one_of(recipe, "precision")
    yield from _one_of(recipe, "on_anomaly")
    for name in ("compiled", "activation_checkpointing"):
        if not isinstance(getattr(recipe, name), bool):
            yield f"{name} must be true or false, not {getattr(recipe, name)!r}."
    spike = recipe.spike_nats
    if spike is not None and not (isfinite(spike) and spike > 0):
        yield f"spike_nats must be a finite number above 0, not {spike}; None is no limit."


def _one_of(recipe: Recipe, field: str) -> Iterator[str]:
    kinds = {
        "schedule": Schedule, "precision": Precision, "moments": Moments, "on_anomaly": Anomaly,
    }  # fmt: skip
    value, known = getattr(recipe, field), get_args(kinds[field])
    if value not in known:
        yield f"{field} must be one of {', '.join(known)}, not {value!r}."


def _whole(values: Iterable[object]) -> bool:
    return all(whole(value, 1) for value in values)


def _rising(values: Iterable[int]) -> bool:
    return all(a < b for a, b in pairwise(values))
