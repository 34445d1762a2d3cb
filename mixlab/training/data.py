"""What a run reads: batches of its mixture, and the validation windows of all domains."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from mixlab.corpora.sampling import Sampler
from mixlab.errors import DomainTooSmall, InvalidRecipe, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule
from mixlab.training.evaluation import Validation
from mixlab.training.records import TokenCorpus


def check_vocabulary(recipe: Recipe, corpus: TokenCorpus) -> None:
    """Raise InvalidRecipe where the corpus has tokens that the recipe has no place for."""
    size = recipe.architecture.vocabulary
    if corpus.vocabulary > size:
        raise InvalidRecipe(
            f"{recipe.name} has a vocabulary of {size}, but the corpus uses {corpus.vocabulary} "
            "tokens; use Recipe.for_vocabulary()."
        )


def check_tokens(highest: int, recipe: Recipe, of: str) -> None:
    """Raise TruncatedFile for a token without a place in the vocabulary; `of` says which hold it.

    The corpus promises less, so that its shards are damaged; on a GPU it would end the process.
    """
    size = recipe.architecture.vocabulary
    if highest >= size:
        raise TruncatedFile(
            f"{of} hold the token {highest}, but the vocabulary ends at {size - 1}; the corpus's "
            "shards are damaged: tokenise again."
        )


def sampler_of(
    recipe: Recipe,
    corpus: TokenCorpus,
    schedule: MixtureSchedule,
    *,
    seed: int,
    max_epochs: float | None,
    first_token: int = 0,
) -> Sampler:
    """The run's training batches; `first_token` as a Sampler takes it."""
    return Sampler(
        {name: corpus.stream(name, "train") for name in corpus.domains},
        schedule,
        context=recipe.architecture.context,
        batch_sequences=recipe.batch_sequences,
        batch_stages=recipe.batch_stages,
        seed=seed,
        max_epochs=max_epochs,
        first_token=first_token,
    )


def validation_of(recipe: Recipe, corpus: TokenCorpus) -> Validation:
    """The windows on which every run of the recipe is measured, of all the corpus's domains."""
    found = Validation(
        {name: corpus.stream(name, "validation") for name in corpus.domains},
        context=recipe.architecture.context,
        tokens_per_domain=recipe.evaluation_tokens,
    )
    check_tokens(int(found.targets.max()), recipe, "The validation tokens")
    check_tokens(int(found.inputs.max()), recipe, "The validation tokens")
    return found


def last_step(recipe: Recipe, sampler: Sampler) -> tuple[int, str]:
    """How many updates the run can make, and why not all of the recipe's, in words.

    Raises DomainTooSmall where it can make none.
    """
    last = sampler.last_step(recipe.steps)
    if last is None:
        return recipe.steps, ""
    names = ", ".join(sampler.beyond(last))
    why = (
        f"update {last + 1} of {recipe.steps} would read {names} more than "
        f"{sampler.max_epochs:g} times"
    )
    if last == 0:
        raise DomainTooSmall(
            f"Already {why}; add text, give it a smaller share, or allow more epochs."
        )
    return last, f"It ended after update {last}: {why}."


def check_reached(step: int, last: int, sampler: Sampler) -> None:
    """Raise InvalidRecipe where a run has made more updates than `max_epochs` now lets it."""
    if step > last:
        raise InvalidRecipe(
            f"The run has made {step} updates already, but with max_epochs "
            f"{sampler.max_epochs:g} it ends after {last}; allow more epochs, or give it another "
            "folder."
        )


def mixture_until(step: int, schedule: MixtureSchedule, sampler: Sampler) -> Mixture:
    """The shares of a run's first updates: what was asked for, or of a schedule what was read."""
    if len(schedule.stages) == 1:
        return schedule.stages[0].mixture
    return Mixture.normalised(sampler.consumed(0, step))


def observed(
    step: int,
    losses_nats: Mapping[str, float],
    recipe: Recipe,
    schedule: MixtureSchedule,
    sampler: Sampler,
) -> Observation:
    """An evaluation's losses as an observation of the run, which names itself later."""
    return Observation(
        run="",
        mixture=mixture_until(step, schedule, sampler),
        step=step,
        tokens=recipe.tokens_before(step + 1),
        losses_nats=dict(losses_nats),
        params=recipe.architecture.parameters,
    )


def consumed_by(
    recipe: Recipe, sampler: Sampler, step: int, skipped: Iterable[int] = ()
) -> tuple[Mapping[str, Any], ...]:
    """The ledger of what a run has read after so many updates (`TrainingResult.consumed`)."""
    ends = sorted({0, *(end for end in recipe.evaluation_steps if end <= step), step})
    left_out = sorted(skipped)
    return tuple(
        {
            "from_step": a,
            "to_step": b,
            "tokens": sampler.consumed(a, b),
            "epochs": sampler.epochs(a, b),
            "skipped": [one for one in left_out if a < one <= b],
        }
        for a, b in pairwise(ends)
    )
