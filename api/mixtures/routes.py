"""Routes of mixtures."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import DispatcherDep, Id, LedgerDep
from api.jobs.routes import accept
from api.jobs.schemas import JobView
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
from api.openapi import ACCEPTED, created, problems
from api.paging import PageSize, PageToken, after_of, size_of, token_for
from api.strict import StrictRoute
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

router = APIRouter(prefix="/mixtures", tags=["mixtures"], route_class=StrictRoute)

FIT_REFUSALS = (
    InfeasibleConstraints, InvalidBudget, InvalidLoss, InvalidMixture, InvalidTable, NotReady,
    TooFewMixtures, UnknownCorpus, UnknownLaw, UnknownRecipe,
)  # fmt: skip


@router.post(
    "/fit",
    status_code=202,
    operation_id="fitMixture",
    responses={**problems(*FIT_REFUSALS, body=True), **ACCEPTED},
)
def fit_mixture(
    body: FitBody, ledger: LedgerDep, dispatcher: DispatcherDep, response: Response
) -> JobView:
    """Find the mixture for a budget, doing whatever stages are missing.

    The corpus is measured, proxy runs are trained, the law is fitted, the mixture solved;
    the job's result links to it. With observations only the last two are done.
    """
    job = ledger.submit(JobKind.FIT_MIXTURE, checked_fit(body, ledger), queue=Queue.CPU)
    return accept(response, ledger, dispatcher, job)


@router.post(
    "/solve",
    status_code=201,
    operation_id="solveMixture",
    responses={
        **problems(
            InfeasibleConstraints,
            InvalidBudget,
            InvalidMixture,
            InvalidTable,
            NotReady,
            TooFewMixtures,
            UnknownMixture,
            body=True,
        ),
        **created("new mixture"),
    },
)
def solve_mixture(body: SolveBody, ledger: LedgerDep, response: Response) -> MixtureView:
    """Solve a mixture's fit again under another budget, objective or constraints, at once."""
    from api.mixtures.solving import solve_again  # SciPy: not at start

    parent = ledger.mixture(body.mixture_id)
    proportions, report = solve_again(body, parent)
    record = ledger.add_mixture(
        corpus_id=parent.corpus_id,
        job_id=None,
        parent_id=parent.id,
        proportions=proportions,
        fit=parent.fit,
        report=report,
    )
    response.headers["Location"] = f"/mixtures/{record.id}"
    return MixtureView.of(record)


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
def design_mixtures(body: DesignRequest, ledger: LedgerDep) -> DesignView:
    """Propose mixtures to run: spread over what is allowed, or the next ones of a fit."""
    from api.mixtures.solving import first_runs, propose

    if body.mixture_id is not None:
        return propose(body, ledger.mixture(body.mixture_id))
    if body.corpus_id is None:
        return first_runs(body, list(body.domains or []), None)
    corpus = ledger.corpus(body.corpus_id)
    return first_runs(body, list(corpus.spec["domains"]), train_tokens(corpus))


@router.post(
    "",
    status_code=201,
    operation_id="registerMixture",
    responses={**problems(InvalidMixture, UnknownCorpus, body=True), **created("mixture")},
)
def register_mixture(body: MixtureBody, ledger: LedgerDep, response: Response) -> MixtureView:
    """Register proportions that you have already, to train with them."""
    proportions = checked_proportions(body.proportions, ledger.corpus(body.corpus_id))
    record = ledger.add_mixture(
        corpus_id=body.corpus_id,
        job_id=None,
        parent_id=None,
        proportions=proportions,
        fit=None,
        report={},
    )
    response.headers["Location"] = f"/mixtures/{record.id}"
    return MixtureView.of(record)


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


@router.get("/{mixture_id}", operation_id="getMixture", responses=problems(UnknownMixture))
def get_mixture(mixture_id: Id, ledger: LedgerDep) -> MixtureView:
    """One mixture, with the fit and the problem that it came from."""
    return MixtureView.of(ledger.mixture(mixture_id))
