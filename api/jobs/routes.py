"""Routes that show jobs: lists, children, events. One job: polling.py; changes: actions.py."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.dependencies import Id, LedgerDep
from api.jobs.polling import visible
from api.jobs.progress import progress_of
from api.jobs.schemas import EventPage, EventView, JobPage, JobView
from api.jobs.streams import JobStream
from api.jobs.watching import WatcherDep
from api.openapi import EVENT_STREAM, problems
from api.paging import PageSize, PageToken, after_of, size_of, token_for
from api.strict import StrictRoute, prefers
from api.values import ID_PATTERN
from mixlab.errors import UnknownJob
from mixlab.ledger.records import Job, JobKind, JobState
from mixlab.ledger.sql import Ledger

MOST_EVENTS = 2**31 - 1  # what the ledger's column of event numbers holds

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)

After = Annotated[
    int, Query(ge=0, le=MOST_EVENTS, description="Number of the last event that you know.")
]
LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID", ge=0, le=MOST_EVENTS,
        description="The same of a stream that goes on; counts more than `after`.",
    ),
]  # fmt: skip
Parent = Annotated[str | None, Query(max_length=64, pattern=ID_PATTERN)]


@router.get("", operation_id="listJobs", responses=problems(422, UnknownJob))
def list_jobs(
    ledger: LedgerDep,
    state: JobState | None = None,
    kind: JobKind | None = None,
    parent: Parent = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> JobPage:
    """Jobs, newest first, filtered by state, kind and parent."""
    filters = {"state": state, "kind": kind, "parent": parent}
    if parent is not None:
        ledger.job(parent)  # an unknown parent is an error, not an empty list
    return _page(ledger, filters, page_size, page_token)


@router.get(
    "/{job_id:id}/children", operation_id="listChildren", responses=problems(422, UnknownJob)
)
def list_children(
    job_id: Id, ledger: LedgerDep, page_size: PageSize = 0, page_token: PageToken = ""
) -> JobPage:
    """The jobs that this one has submitted, newest first."""
    ledger.job(job_id)
    return _page(ledger, {"parent": job_id}, page_size, page_token)


@router.get(
    "/{job_id:id}/events",
    operation_id="listJobEvents",
    response_model=EventPage,
    responses={
        **problems(406, 422, UnknownJob),
        200: EVENT_STREAM,
        204: {"description": "The job has ended, and you know its last event: stop listening."},
    },
)
async def list_events(
    job_id: Id,
    request: Request,
    ledger: LedgerDep,
    watcher: WatcherDep,
    after: After = 0,
    page_size: PageSize = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """What happened to a job; with `Accept: text/event-stream`, what happens until its end.

    The stream tells events by their names, with their numbers as ids, and between them `job`
    events with the whole job as it gets on. It ends after the event that ends the job, and goes
    on where it broke off.
    """
    seen = await visible(watcher, request, job_id)
    if prefers(request, "text/event-stream"):
        known = after if last_event_id is None else last_event_id
        if seen.ended and known >= seen.number:
            return Response(status_code=204)
        return JobStream(watcher, seen, known)
    page = await run_in_threadpool(_events, ledger, job_id, after, size_of(page_size))
    return Response(page.model_dump_json(), media_type="application/json")


def _page(ledger: Ledger, filters: dict[str, Any], page_size: int, token: str) -> JobPage:
    after, size = after_of(token, filters), size_of(page_size)
    found = ledger.jobs(
        filters.get("state"), filters.get("kind"), size + 1, after, filters.get("parent")
    )
    token = token_for([job.id for job in found], size, filters)
    return JobPage(jobs=_views(ledger, found[:size]), next_page_token=token)


def _views(ledger: Ledger, jobs: list[Job]) -> list[JobView]:
    """With the progress of children where jobs wait for them, all in one read."""
    waiting = [job.id for job in jobs if job.state is JobState.WAITING]
    looks = ledger.looks.at(waiting) if waiting else []
    families = {look.job.id: look.children for look in looks}
    now = datetime.now(UTC)
    return [JobView.of(job, progress_of(job, families.get(job.id, ()), now=now)) for job in jobs]


def _events(ledger: Ledger, job_id: str, after: int, size: int) -> EventPage:
    found = ledger.events(job_id, after, size + 1)
    shown_ = [EventView.of(event) for event in found[:size]]
    return EventPage(
        events=shown_, next_after=shown_[-1].seq if shown_ else after, more=len(found) > size
    )
