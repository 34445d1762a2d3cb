"""Routes of training runs."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response

from api.dependencies import Id, LedgerDep, ResourcesDep
from api.jobs.schemas import JobView
from api.making import WAITS, MakingDep, MakingRoute, makes_job
from api.mixtures.checks import checked_proportions
from api.openapi import problems
from api.trainings.finding import donor_named, heir_of, run_named
from api.trainings.methods import check_alone, checked_methods
from api.trainings.schemas import TrainingBody, TrainingView
from mixlab.errors import (
    InvalidBudget,
    InvalidCorpus,
    InvalidMixture,
    InvalidRecipe,
    NotReady,
    UnknownCorpus,
    UnknownJob,
    UnknownMixture,
    UnknownRecipe,
    UnknownRun,
)
from mixlab.ledger.records import Corpus, JobKind, Queue, RunRole
from mixlab.ledger.sql import Ledger
from mixlab.mixture import Mixture
from mixlab.recipes import recipe
from mixlab.schedules import MixtureSchedule
from workers.contract import SharedSettings

router = APIRouter(prefix="/trainings", tags=["trainings"], route_class=MakingRoute)

REFUSALS = (
    InvalidBudget,
    InvalidCorpus,
    InvalidMixture,
    InvalidRecipe,
    NotReady,
    UnknownCorpus,
    UnknownJob,
    UnknownMixture,
    UnknownRecipe,
    UnknownRun,
)


@router.post(
    "",
    status_code=202,
    operation_id="trainMixture",
    response_model=JobView,
    responses=makes_job(*REFUSALS),
    dependencies=WAITS,
)
def train_mixture(
    body: TrainingBody, making: MakingDep, resources: ResourcesDep
) -> JobView | Response:
    """Train with exactly these proportions, or stage by stage with those of a schedule.

    The corpus is measured first if it wasn't yet.
    """
    payload = checked_payload(body, making.ledger, resources.settings)
    return making.job(JobKind.TRAIN, payload, queue=Queue.GPU, priority=body.priority)


@router.get(
    "/{training_id:id}", operation_id="getTraining", responses=problems(404, UnknownJob, NotReady)
)
def get_training(training_id: Id, ledger: LedgerDep) -> TrainingView:
    """A training run by its own id, or by the id of the job that makes it and no other."""
    run = run_named(ledger, training_id)
    return TrainingView.of(run, ledger.job(run.job_id).payload)


def checked_payload(body: TrainingBody, ledger: Ledger, settings: SharedSettings) -> dict[str, Any]:
    """What the job needs to know. Raises the REFUSALS."""
    check_alone(growth=body.growth, rounds=body.rounds, inherit=body.inherit)
    chosen = recipe(body.recipe)
    if body.shape is not None:
        chosen = chosen.in_shape(**body.shape.model_dump())
    if body.steps is not None:
        chosen = chosen.lasting(body.steps)
    corpus_id, schedule = _mixture(body, ledger)
    corpus = ledger.corpus(corpus_id)
    stages = [
        replace(stage, mixture=Mixture(checked_proportions(stage.mixture.proportions, corpus)))
        for stage in schedule.stages
    ]
    schedule = MixtureSchedule(tuple(stages))
    methods = checked_methods(body.growth, body.rounds, chosen, schedule)
    if body.inherit is not None:
        donor = donor_named(body.inherit.training_id, corpus_id, ledger, settings)
        chosen = heir_of(donor, chosen)
        methods = {"inherit": {**body.inherit.model_dump(), "training_id": donor.id}}
    return {
        "corpus_id": corpus_id,
        "mixture": _as_one(schedule, chosen.tokens, corpus),
        "schedule": None if body.schedule is None else schedule.to_dict(),
        "mixture_id": body.mixture_id,
        "recipe": chosen.to_dict(),
        "seed": body.seed,
        "role": RunRole.FULL.value,
        "label": body.label,
        **methods,
    }


def _as_one(schedule: MixtureSchedule, tokens: int, corpus: Corpus) -> dict[str, float]:
    """The mixture that a run of so many tokens trains on, over all domains of the corpus."""
    only = schedule.stages[0].mixture if len(schedule.stages) == 1 else schedule.mean(tokens)
    return checked_proportions(only.proportions, corpus)


def _mixture(body: TrainingBody, ledger: Ledger) -> tuple[str, MixtureSchedule]:
    """The corpus and schedule that a body means."""
    given = [one for one in (body.mixture_id, body.proportions, body.schedule) if one is not None]
    if len(given) != 1:
        raise InvalidMixture(
            "Give one of mixture_id, or proportions or schedule with corpus_id; "
            f"{len(given)} of them were given."
        )
    corpus_id = body.corpus_id
    if body.schedule is not None:
        schedule = MixtureSchedule.from_dict(body.schedule.model_dump())
    elif body.mixture_id is not None:
        record = ledger.mixture(body.mixture_id)
        corpus_id = corpus_id or record.corpus_id
        schedule = MixtureSchedule.of(Mixture(record.proportions))
    else:
        schedule = MixtureSchedule.of(Mixture(body.proportions or {}))
    if corpus_id is None:
        raise InvalidMixture("A training needs text: give corpus_id beside the mixture.")
    return corpus_id, schedule
