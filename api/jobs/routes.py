"""Routes of jobs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from api.dependencies import Id, LedgerDep
from api.dispatch import Dispatcher
from api.jobs.progress import progress_of
from api.jobs.schemas import JobPage, JobView
from api.openapi import problems
from api.paging import PageSize, PageToken, after_of, size_of, token_for
from api.strict import StrictRoute
from api.values import ID_PATTERN
from mixlab.errors import UnknownJob
from mixlab.ledger.records import Job, JobKind, JobState
from mixlab.ledger.sql import Ledger

RETRY_AFTER_SECONDS = 2

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)


def accept(response: Response, ledger: Ledger, dispatcher: Dispatcher, job: Job) -> JobView:
    """Send a job that the ledger holds, and fill in the headers of its 202."""
    dispatcher.send(job, ledger)
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JobView.of(job)


@router.get("", operation_id="listJobs", responses=problems(422, UnknownJob))
def list_jobs(
    ledger: LedgerDep,
    state: JobState | None = None,
    kind: JobKind | None = None,
    parent: Annotated[str | None, Query(max_length=64, pattern=ID_PATTERN)] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> JobPage:
    """Jobs, newest first, filtered by state, kind and parent."""
    filters = {"state": state, "kind": kind, "parent": parent}
    after, size = after_of(page_token, filters), size_of(page_size)
    if parent is None:
        found = list(ledger.jobs(state=state, kind=kind, limit=size + 1, after=after))
    else:
        found = _of_parent(ledger, parent, state, kind)
        ids = [job.id for job in found]
        found = found[ids.index(after) + 1 if after in ids else 0 :]
    token = token_for([job.id for job in found], size, filters)
    return JobPage(jobs=[_view(ledger, job) for job in found[:size]], next_page_token=token)


@router.get(
    "/{job_id}",
    operation_id="getJob",
    response_model=JobView,
    responses={
        **problems(UnknownJob),
        304: {"description": "The job is as the given ETag knows it."},
    },
)
def get_job(
    job_id: Id,
    ledger: LedgerDep,
    response: Response,
    if_none_match: Annotated[str | None, Header()] = None,
) -> JobView | Response:
    """One job. While it is active `Retry-After` says when to ask again."""
    job = ledger.job(job_id)
    children = ledger.children(job_id)
    headers = {"ETag": _etag(job, children), "Cache-Control": "no-cache"}
    if not job.state.terminal:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if if_none_match and _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return JobView.of(job, progress_of(job, children, now=datetime.now(UTC)))


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    responses={
        **problems(UnknownJob),
        202: {"model": JobView, "description": "Its worker was asked to stop."},
    },
)
def cancel_job(job_id: Id, ledger: LedgerDep, response: Response) -> JobView:
    """Ask a job and its children to stop; asking again changes nothing.

    200 once the job is over (cancelled or otherwise), 202 while its worker is still stopping.
    """
    job = ledger.request_cancel(job_id)
    if not job.state.terminal:
        response.status_code = 202
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JobView.of(job)


@router.get("/{job_id}/children", operation_id="listChildren", responses=problems(UnknownJob))
def list_children(job_id: Id, ledger: LedgerDep) -> JobPage:
    """Every job that this one has submitted, newest first."""
    found = _of_parent(ledger, job_id, None, None)
    return JobPage(jobs=[JobView.of(job) for job in found], next_page_token="")


def _of_parent(
    ledger: Ledger, parent: str, state: JobState | None, kind: JobKind | None
) -> list[Job]:
    ledger.job(parent)  # an unknown parent is an error, not an empty list
    children = sorted(
        ledger.children(parent), key=lambda job: (job.created_at, job.id), reverse=True
    )
    return [job for job in children if state in (None, job.state) and kind in (None, job.kind)]


def _view(ledger: Ledger, job: Job) -> JobView:
    children = ledger.children(job.id) if job.state is JobState.WAITING else []
    return JobView.of(job, progress_of(job, children, now=datetime.now(UTC)))


def _etag(job: Job, children: Sequence[Job]) -> str:
    # A child's progress shows in its parent, so the children's versions count too.
    return f'W/"{job.version}.{len(children)}.{sum(child.version for child in children)}"'


def _matches(if_none_match: str, etag: str) -> bool:
    given = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in given or etag.removeprefix("W/") in given
