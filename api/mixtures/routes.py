"""Routes of mixtures."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api.dependencies import Id, LedgerDep, ResourcesDep
from api.jobs.schemas import JobView
from api.making import WAITS, Making, MakingDep, MakingRoute, makes, makes_job
from api.mixtures.checks import checked_fit, checked_proportions, train_tokens
from api.mixtures.schemas import (
    DesignRequest,
    DesignView,
    FitBody,
    MixtureBody,
    MixturePage,
    MixtureSummary,
    MixtureView,
    PredictBody,
    PredictedView,
    SolveBody,
)
from api.openapi import problems
from api.paging import PageSize, PageToken, after_of, size_of, token_for
from api.values import ID_PATTERN
from mixlab.errors import (
    InfeasibleConstraints,
    InvalidBudget,
    InvalidLoss,
    InvalidMixture,
    InvalidTable,
    NotReady,
    TooFewMixtures,
    UnknownCorpus,
    UnknownLaw,
    UnknownMixture,
    UnknownRecipe,
)
from mixlab.ledger.records import JobKind, Queue

router = APIRouter(prefix="/mixtures", tags=["mixtures"], route_class=MakingRoute)

FIT_REFUSALS = (
    InfeasibleConstraints, InvalidBudget, InvalidLoss, InvalidMixture, InvalidTable, NotReady,
    TooFewMixtures, UnknownCorpus, UnknownLaw, UnknownRecipe,
)  # fmt: skip


@router.post(
    "/fit",
    status_code=202,
    operation_id="fitMixture",
    response_model=JobView,
    responses=makes_job(*FIT_REFUSALS),
    dependencies=WAITS,
)
def fit_mixture(body: FitBody, making: MakingDep) -> JobView | Response:
    """Find the mixture for a budget, doing whatever stages are missing.

    The corpus is measured, proxy runs are trained, the law is fitted, the mixture solved;
    the job's result links to it. With observations only the last two are done.
    """
    payload = checked_fit(body, making.ledger)
    return making.job(JobKind.FIT_MIXTURE, payload, queue=Queue.CPU, priority=body.priority)


@router.post(
    "/solve",
    status_code=201,
    operation_id="solveMixture",
    response_model=MixtureView,
    responses=makes(
        "new mixture", InfeasibleConstraints, InvalidBudget, InvalidMixture, InvalidTable, NotReady,
        TooFewMixtures, UnknownMixture,
    ),
)  # fmt: skip
def solve_mixture(body: SolveBody, making: MakingDep) -> MixtureView | Response:
    """Solve a mixture's fit again under another budget, objective or constraints, at once."""
    from api.mixtures.solving import solve_again  # SciPy: not at start

    parent = making.ledger.mixture(body.mixture_id)
    proportions, report = solve_again(body, parent)
    return _registered(
        making, corpus_id=parent.corpus_id, parent_id=parent.id, proportions=proportions,
        fit=parent.fit, report=report,
    )  # fmt: skip


@router.post(
    "/predict",
    operation_id="predictMixture",
    responses=problems(InvalidBudget, InvalidMixture, NotReady, UnknownMixture, body=True),
)
def predict_mixture(body: PredictBody, ledger: LedgerDep) -> PredictedView:
    """Predict a run's losses by a mixture's fit, with 95% intervals; nothing is recorded."""
    from api.mixtures.solving import predict

    return predict(body, ledger.mixture(body.mixture_id))


@router.post(
    "/design",
    operation_id="designMixtures",
    responses=problems(
        InfeasibleConstraints, InvalidBudget, InvalidMixture, InvalidTable, NotReady,
        TooFewMixtures, UnknownCorpus, UnknownMixture, body=True,
    ),
)  # fmt: skip
def design_mixtures(body: DesignRequest, ledger: LedgerDep, resources: ResourcesDep) -> DesignView:
    """Propose mixtures to run: spread over what is allowed, or the next ones of a fit."""
    from api.mixtures.solving import first_runs, propose

    if body.mixture_id is not None:
        return propose(body, ledger.mixture(body.mixture_id), resources.settings.home)
    if body.corpus_id is None:
        return first_runs(body, list(body.domains or []), None)
    corpus = ledger.corpus(body.corpus_id)
    return first_runs(body, list(corpus.spec["domains"]), train_tokens(corpus))


@router.post(
    "",
    status_code=201,
    operation_id="registerMixture",
    response_model=MixtureView,
    responses=makes("mixture", InvalidMixture, UnknownCorpus),
)
def register_mixture(body: MixtureBody, making: MakingDep) -> MixtureView | Response:
    """Register proportions that you have already, to train with them."""
    proportions = checked_proportions(body.proportions, making.ledger.corpus(body.corpus_id))
    return _registered(
        making, corpus_id=body.corpus_id, parent_id=None, proportions=proportions, fit=None,
        report={},
    )  # fmt: skip


@router.get("", operation_id="listMixtures", responses=problems(422))
def list_mixtures(
    ledger: LedgerDep,
    corpus_id: Annotated[str | None, Query(max_length=64, pattern=ID_PATTERN)] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> MixturePage:
    """Mixtures, newest first, without their fits and reports."""
    filters = {"corpus_id": corpus_id}
    after, size = after_of(page_token, filters), size_of(page_size)
    found = ledger.mixtures(corpus_id, limit=size + 1, after=after)
    token = token_for([record.id for record in found], size, filters)
    shown = [MixtureSummary.of(record) for record in found[:size]]
    return MixturePage(mixtures=shown, next_page_token=token)


@router.get("/{mixture_id:id}", operation_id="getMixture", responses=problems(UnknownMixture))
def get_mixture(mixture_id: Id, ledger: LedgerDep) -> MixtureView:
    """One mixture, with the fit and the problem that it came from."""
    return MixtureView.of(ledger.mixture(mixture_id))


def _registered(making: Making, **values: Any) -> MixtureView | Response:
    """Keep a mixture that no job made; or say what would be kept, without the parent's fit."""
    if making.only_check:
        return making.checked({name: value for name, value in values.items() if name != "fit"})
    record = making.ledger.add_mixture(job_id=None, number=making.number, **values)
    making.response.headers["Location"] = f"/mixtures/{record.id}"
    return MixtureView.of(record)
