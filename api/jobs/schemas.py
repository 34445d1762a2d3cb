"""Jobs as clients see them."""

from datetime import datetime
from typing import Any, Self

from pydantic import Field

from api.jobs.progress import Progress
from api.values import View
from mixlab.ledger.records import Job, JobKind, JobState, Queue


class JobError(View):
    """Why a job failed, as a problem document without a status."""

    type: str = Field(examples=["urn:mixlab:error:too-few-mixtures"])
    title: str
    detail: str


class JobView(View):
    """One row of the ledger: what is asked, how far it is, how it ended."""

    id: str = Field(examples=["job_0199f2c4"])
    kind: JobKind
    queue: Queue
    state: JobState = Field(description="Treat a state you don't know as still active.")
    stage: str | None = Field(description="What it is doing, such as `tokenise`.")
    fraction: float = Field(ge=0, le=1, description="Done so far, child jobs included.")
    eta_seconds: float | None = Field(description="Estimated seconds left.")
    attempt: int = Field(description="How often a worker has taken it up.")
    failures: int = Field(description="Attempts that ended in a crash or an expired lease.")
    parent_id: str | None
    cancel_requested_at: datetime | None
    error: JobError | None
    result: dict[str, Any] | None = Field(
        description="`href` of what it made, once it has succeeded.",
        examples=[{"href": "/mixtures/mix_0199f2c4"}],
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, progress: Progress | None = None) -> Self:
        """The view of a ledger's job."""
        shown = progress or Progress(job.fraction, job.eta_seconds)
        return cls(
            id=job.id,
            kind=job.kind,
            queue=job.queue,
            state=job.state,
            stage=job.stage,
            fraction=min(1.0, max(0.0, shown.fraction)),
            eta_seconds=shown.eta_seconds,
            attempt=job.attempt,
            failures=job.failures,
            parent_id=job.parent_id,
            cancel_requested_at=job.cancel_requested_at,
            error=_error(job),
            result=dict(job.result) if job.result is not None else None,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            links=_links(job),
        )


class JobPage(View):
    """Some jobs, newest first."""

    jobs: list[JobView]
    next_page_token: str = Field(description="Empty on the last page.")


def _error(job: Job) -> JobError | None:
    if job.error is None:
        return None
    slug = str(job.error.get("type", "internal")).removeprefix("urn:mixlab:error:")
    return JobError(
        type=f"urn:mixlab:error:{slug}",
        title=str(job.error.get("title", "The job failed")),
        detail=str(job.error.get("detail", "")),
    )


def _links(job: Job) -> dict[str, str]:
    links = {"self": f"/jobs/{job.id}", "children": f"/jobs/{job.id}/children"}
    if not job.state.terminal:
        links["cancel"] = f"/jobs/{job.id}/cancel"
    if job.parent_id:
        links["parent"] = f"/jobs/{job.parent_id}"
    if job.kind is JobKind.TRAIN:
        links["training"] = f"/trainings/{job.id}"
    if job.result and job.result.get("href"):
        links["result"] = str(job.result["href"])
    return links
