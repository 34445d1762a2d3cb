"""Routes that change what becomes of a job: cancel, pause, resume. Each may be asked again."""

from typing import Any

from fastapi import APIRouter, Response

from api.dependencies import DispatcherDep, Id, LedgerDep
from api.jobs.schemas import JobView
from api.jobs.showing import RETRY_AFTER_SECONDS
from api.openapi import RETRY_AFTER, problems
from api.strict import StrictRoute
from mixlab.errors import Conflict, UnknownJob
from mixlab.ledger.records import Job, JobState

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)

_ASKED: dict[int | str, dict[str, Any]] = {
    202: {"model": JobView, "description": "Its worker was asked to.", "headers": RETRY_AFTER}
}


@router.post(
    "/{job_id:id}/cancel",
    operation_id="cancelJob",
    responses={**problems(UnknownJob), **_ASKED},
)
def cancel_job(job_id: Id, ledger: LedgerDep, response: Response) -> JobView:
    """Ask a job and its children to stop; asking again changes nothing.

    200 once the job is over (cancelled or otherwise), 202 while its worker is still stopping.
    """
    job = ledger.request_cancel(job_id)
    return _answer(job, response, under_way=not job.state.terminal)


@router.post(
    "/{job_id:id}/pause",
    operation_id="pauseJob",
    responses={**problems(UnknownJob, Conflict), **_ASKED},
)
def pause_job(job_id: Id, ledger: LedgerDep, response: Response) -> JobView:
    """Hold a job and its children until they are resumed; asking again changes nothing.

    200 once the job is paused, 202 while its worker makes a checkpoint first. A job that waits
    for its children stays so, and they are held.
    """
    job = ledger.request_pause(job_id)
    return _answer(job, response, under_way=job.state is JobState.RUNNING)


@router.post(
    "/{job_id:id}/resume",
    operation_id="resumeJob",
    responses=problems(UnknownJob, Conflict),
)
def resume_job(
    job_id: Id, ledger: LedgerDep, dispatcher: DispatcherDep, response: Response
) -> JobView:
    """Let a paused job and its children go on; one that isn't paused is left as it is."""
    job = ledger.resume(job_id)
    if job.state is JobState.QUEUED:
        dispatcher.send(job, ledger)  # its children's ids are sent by the sweep
    return _answer(job, response, under_way=False)


def _answer(job: Job, response: Response, *, under_way: bool) -> JobView:
    if under_way:
        response.status_code = 202
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JobView.of(job)
