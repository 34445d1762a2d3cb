"""Jobs as clients see them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field

from api.jobs.progress import Progress
from api.values import View
from mixlab.ledger.records import Job, JobEvent, JobKind, JobState, Queue

PRIORITY_LIMIT = 100

Priority = Annotated[int, Field(ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT)]


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
    priority: int = Field(description="Of queued jobs, the highest is taken first.")
    parent_id: str | None
    owner: str | None = Field(description="Id of the API key that asked for it, where one did.")
    not_before: datetime | None = Field(description="A queued job that waits after a failure.")
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
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
            priority=job.priority,
            parent_id=job.parent_id,
            owner=job.owner,
            not_before=job.not_before,
            cancel_requested_at=job.cancel_requested_at,
            pause_requested_at=job.pause_requested_at,
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


class EventView(View):
    """Something that happened to a job."""

    job_id: str
    seq: int = Field(description="Rises from event to event, with gaps.")
    at: datetime
    event: str = Field(
        description="submitted, started, stage, waiting, queued, paused, resumed, succeeded, "
        "failed, cancelled, ...; pass over what you don't know."
    )
    data: dict[str, Any] = Field(description="What is to be said of it, such as the stage.")

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """The view of a ledger's event."""
        return cls(
            job_id=event.job_id, seq=event.seq, at=event.at, event=event.event,
            data=dict(event.data),
        )  # fmt: skip


class EventPage(View):
    """Some events of a job, oldest first."""

    events: list[EventView]
    next_after: int = Field(description="Give it as `after` for what follows, now or later.")
    more: bool = Field(description="Whether more than these have happened already.")


class LogView(View):
    """A part of what an attempt of a job wrote."""

    job_id: str
    attempt: int = Field(description="0 where no worker has taken the job up yet.")
    offset: int = Field(description="Where the text begins, in bytes.")
    next_offset: int = Field(description="Where what follows begins, now or later.")
    size_bytes: int = Field(description="Bytes that the log has so far.")
    finished: bool = Field(description="Whether the attempt is over, so that no more will come.")
    text: str


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
    here = f"/jobs/{job.id}"
    links = {"self": here, **{name: f"{here}/{name}" for name in ("children", "events", "logs")}}
    if not job.state.terminal:
        links["cancel"] = f"{here}/cancel"
        move = "pause" if job.pause_requested_at is None else "resume"
        links[move] = f"{here}/{move}"
    if job.parent_id:
        links["parent"] = f"/jobs/{job.parent_id}"
    if job.kind is JobKind.TRAIN:
        links["training"] = f"/trainings/{job.id}"
    if job.result and job.result.get("href"):
        links["result"] = str(job.result["href"])
    return links
