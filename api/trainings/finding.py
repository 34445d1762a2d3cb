"""Training runs by what clients name them with, and those that can be inherited from."""

from pathlib import Path

from mixlab.errors import InvalidCorpus, NotReady
from mixlab.ledger.records import Run
from mixlab.ledger.sql import Ledger
from mixlab.recipes import Recipe
from mixlab.recipes.heirs import check_heir
from workers.contract import SharedSettings


def run_named(ledger: Ledger, training_id: str) -> Run:
    """A training run by its own id, or by the id of the job that makes it and no other.

    Raises UnknownRun, UnknownJob, and NotReady where a job makes none or several.
    """
    if not training_id.startswith("job_"):
        return ledger.run(training_id)
    job, runs = ledger.job(training_id), ledger.runs_of_job(training_id)
    if len(runs) > 1:
        ids = ", ".join(run.id for run in runs)
        raise NotReady(f"Job {job.id} ({job.kind}) makes {len(runs)} runs; ask for one: {ids}.")
    if not runs:
        raise NotReady(f"Job {job.id} ({job.kind}, {job.state}) has no training run to show.")
    return runs[0]


def donor_named(training_id: str, corpus_id: str, ledger: Ledger, settings: SharedSettings) -> Run:
    """A run that has ended well, on that corpus, and has weights to inherit.

    Raises what `run_named` raises, NotReady and InvalidCorpus.
    """
    run = run_named(ledger, training_id)
    if not run.finished:
        how = "has diverged" if run.error else f"is of a job that is {ledger.job(run.job_id).state}"
        raise NotReady(
            f"Training {run.id} {how}, so it has no weights to inherit; wait until it has "
            "succeeded, or name another."
        )
    _check_weights(run, settings.run_weights(run.id))
    if run.corpus_id != corpus_id:
        raise InvalidCorpus(
            f"Training {run.id} is of {run.corpus_id}, whose tokens may mean something else in "
            f"{corpus_id}; inherit from a training on {corpus_id}, or train on {run.corpus_id}."
        )
    return run


def heir_of(donor: Run, recipe: Recipe) -> Recipe:
    """The recipe with the donor's tokens. Raises InvalidRecipe for a shape that it can't give."""
    large = Recipe.from_dict(dict(donor.recipe)).architecture
    heir = recipe.for_vocabulary(large.vocabulary)
    check_heir(large, heir.architecture)
    return heir


def _check_weights(run: Run, weights: Path) -> None:
    if not weights.is_file():
        raise NotReady(
            f"Training {run.id} ({run.role}) has no weights any more: proxy runs lose theirs after "
            "MIXLAB_RETENTION_DAYS; train it again, or inherit from another."
        )
