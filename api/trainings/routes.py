"""Routes of training runs."""

from typing import Any

from fastapi import APIRouter, Response

from api.dependencies import DispatcherDep, Id, LedgerDep
from api.jobs.routes import accept
from api.jobs.schemas import JobView
from api.mixtures.checks import checked_proportions
from api.openapi import ACCEPTED, problems
from api.strict import StrictRoute
from api.trainings.schemas import TrainingBody, TrainingView
from mixlab.errors import (
    InvalidMixture,
    InvalidRecipe,
    NotReady,
    UnknownCorpus,
    UnknownJob,
    UnknownMixture,
    UnknownRecipe,
)
from mixlab.ledger.records import JobKind, Queue, RunRole
from mixlab.ledger.sql import Ledger
from mixlab.recipes import recipe

router = APIRouter(prefix="/trainings", tags=["trainings"], route_class=StrictRoute)

REFUSALS = (InvalidMixture, InvalidRecipe, UnknownCorpus, UnknownMixture, UnknownRecipe)


@router.post(
    "",
    status_code=202,
    operation_id="trainMixture",
    responses={**problems(*REFUSALS, body=True), **ACCEPTED},
)
def train_mixture(
    body: TrainingBody, ledger: LedgerDep, dispatcher: DispatcherDep, response: Response
) -> JobView:
    """Train with exactly these proportions. The corpus is measured first if it wasn't yet."""
    payload = checked_payload(body, ledger)
    job = ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)
    return accept(response, ledger, dispatcher, job)


@router.get(
    "/{training_id}", operation_id="getTraining", responses=problems(404, UnknownJob, NotReady)
)
def get_training(training_id: Id, ledger: LedgerDep) -> TrainingView:
    """A training run by its own id, or by the id of the job that makes it."""
    if not training_id.startswith("job_"):
        return TrainingView.of(ledger.run(training_id))
    run = ledger.run_of_job(training_id)
    if run is None:
        job = ledger.job(training_id)
        raise NotReady(f"Job {job.id} ({job.kind}, {job.state}) has no training run to show.")
    return TrainingView.of(run)


def checked_payload(body: TrainingBody, ledger: Ledger) -> dict[str, Any]:
    """What the job needs to know. Raises the REFUSALS."""
    chosen = recipe(body.recipe)
    if body.steps is not None:
        chosen = chosen.lasting(body.steps)
    corpus_id, proportions = _mixture(body, ledger)
    return {
        "corpus_id": corpus_id,
        "mixture": checked_proportions(proportions, ledger.corpus(corpus_id)),
        "mixture_id": body.mixture_id,
        "recipe": chosen.to_dict(),
        "seed": body.seed,
        "role": RunRole.FULL.value,
        "label": body.label,
    }


def _mixture(body: TrainingBody, ledger: Ledger) -> tuple[str, dict[str, float]]:
    """The corpus and proportions that a body means."""
    if (body.mixture_id is None) == (body.proportions is None):
        raise InvalidMixture("Give either mixture_id, or proportions with corpus_id; not both.")
    corpus_id, proportions = body.corpus_id, body.proportions or {}
    if body.mixture_id is not None:
        record = ledger.mixture(body.mixture_id)
        corpus_id, proportions = corpus_id or record.corpus_id, dict(record.proportions)
    if corpus_id is None:
        raise InvalidMixture("A training needs text: give corpus_id beside the mixture.")
    return corpus_id, proportions
