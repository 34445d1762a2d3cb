"""The moves between a job's states: each one conditional write, and one event that tells it.

    queued -> running -> succeeded | failed | cancelled
      ^  ^       |  |
      |  |       v  v          queued again after a crash (attempts.py), or when
      |  |   waiting |         the last child has ended
      |  |            v
      |  +-------- paused      by a user, until the same or another one resumes it

Rows are locked parent before child, always, so that PostgreSQL can't deadlock
and the last of several children that end at once sees the ends of all others.

A job that ends takes its unfinished children along: those that don't run are
cancelled, the running ones asked to stop. Pausing and resuming reach the
children too.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, insert, or_, select, update

from mixlab.errors import LeaseLost, UnknownJob
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from mixlab.ledger.schema import job_events, jobs

TERMINAL = tuple(state for state in JobState if state.terminal)
RECORD = [column for column in jobs.c if column.name != "sent_at"]
SEEN = [column for column in RECORD if column.name != "payload"]  # which may have megabytes
NOBODY = {"worker": None, "lease_until": None, "eta_seconds": None}


def as_job(row: Row[Any]) -> Job:
    """A row as the frozen record; without a payload where the query left it out."""
    values = {"payload": {}, **row._asdict()}
    # float too, because SQLite's RETURNING gives 0 for a stored 0.0.
    kinds = {"kind": JobKind, "queue": Queue, "state": JobState, "fraction": float}
    return Job(**values | {name: kind(values[name]) for name, kind in kinds.items()})


def find(db: Connection, job_id: str) -> Job:
    """The job, whoever asks. Raises UnknownJob."""
    row = db.execute(select(*RECORD).where(jobs.c.id == job_id)).first()
    if row is None:
        raise unknown(job_id)
    return as_job(row)


def unknown(job_id: str) -> UnknownJob:
    """The error of an id that no job has, or none that the asker may see."""
    return UnknownJob(f"There is no job {job_id!r}; GET /jobs lists those there are.")


def locked(db: Connection, job_id: str) -> Job:
    """The job with its row, and before it its parent's, locked until the transaction's end."""
    parent_id = find(db, job_id).parent_id
    if parent_id is not None:
        db.execute(_for_update().where(jobs.c.id == parent_id))
    return as_job(db.execute(_for_update().where(jobs.c.id == job_id)).one())


def held(db: Connection, job_id: str, attempt: int) -> Job:
    """The locked job where that attempt holds it. Raises LeaseLost."""
    job = locked(db, job_id)
    if job.state != JobState.RUNNING or job.attempt != attempt:
        raise lost(job, attempt)
    return job


def held_by(job_id: str, attempt: int) -> Sequence[Any]:
    """What is true of a row while that attempt holds it."""
    return (jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == JobState.RUNNING)


def is_due(now: datetime) -> ColumnElement[bool]:
    """What is true of a job that doesn't wait after a failure (any more)."""
    return or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now)


def lost(job: Job, attempt: int) -> LeaseLost:
    """The error of an attempt that no longer holds its job."""
    return LeaseLost(
        f"Attempt {attempt} of job {job.id} may write no more: the job is {job.state}, in "
        f"attempt {job.attempt}."
    )


def put(
    db: Connection, job_id: str, event: str, now: datetime, data: Mapping[str, Any] | None = None,
    **values: Any,
) -> None:  # fmt: skip
    """Change a locked job and tell it as an event."""
    statement = update(jobs).where(jobs.c.id == job_id)
    version = db.execute(
        statement.values(version=jobs.c.version + 1, **values).returning(jobs.c.version)
    ).scalar_one()
    tell(db, job_id, version, event, now, data)


def tell(
    db: Connection, job_id: str, version: int, event: str, now: datetime,
    data: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write an event of the version that the job has reached."""
    db.execute(
        insert(job_events).values(job_id=job_id, seq=version, at=now, event=event, data=data or {})
    )


def finish(
    db: Connection, job: Job, state: JobState, now: datetime,
    data: Mapping[str, Any] | None = None, **values: Any,
) -> None:  # fmt: skip
    """End a locked job, with all its unfinished children, and wake a waiting parent."""
    put(db, job.id, state.value, now, data, state=state, finished_at=now, **NOBODY, **values)
    for child in unfinished(db, job.id):
        cancel(db, child, now)
    if job.parent_id is not None:
        _wake(db, job.parent_id, now)


def cancel(db: Connection, job: Job, now: datetime) -> None:
    """End a locked job that doesn't run; flag one that does."""
    if job.state != JobState.RUNNING:
        at = job.cancel_requested_at or now
        finish(db, job, JobState.CANCELLED, now, cancel_requested_at=at)
    elif job.cancel_requested_at is None:
        put(db, job.id, "cancel_requested", now, cancel_requested_at=now)


def pause(db: Connection, job: Job, now: datetime) -> None:
    """Hold a locked job and all its children; one that waits or runs is flagged."""
    if job.pause_requested_at is None:
        flag: dict[str, Any] = {"pause_requested_at": now}
        if job.state == JobState.QUEUED:
            put(db, job.id, "paused", now, state=JobState.PAUSED, **flag)
        else:
            put(db, job.id, "pause_requested", now, **flag)
    for child in unfinished(db, job.id):
        pause(db, child, now)


def resume(db: Connection, job: Job, now: datetime) -> None:
    """Let a locked job and all its children go on; one that still runs simply runs on."""
    if job.pause_requested_at is not None:
        put(db, job.id, "resumed", now, pause_requested_at=None)
    if job.state == JobState.PAUSED:
        requeue(db, find(db, job.id), now)
    for child in unfinished(db, job.id):
        resume(db, child, now)


def requeue(
    db: Connection, job: Job, now: datetime, reason: str | None = None, **values: Any
) -> None:
    """Queue a locked job again, or hold it where a pause was asked for."""
    held_up = job.pause_requested_at is not None
    state = JobState.PAUSED if held_up else JobState.QUEUED
    data = {} if reason is None else {"reason": reason}
    put(db, job.id, state.value, now, data, state=state, sent_at=None, **NOBODY, **values)


def unfinished(db: Connection, parent_id: str) -> list[Job]:
    """Children that have not ended, locked, in order of submission."""
    query = _for_update().where(jobs.c.parent_id == parent_id, jobs.c.state.not_in(TERMINAL))
    return [as_job(row) for row in db.execute(query.order_by(jobs.c.id)).all()]


def any_unfinished(db: Connection, parent_id: str) -> bool:
    """Whether a child has not ended."""
    query = select(jobs.c.id).where(jobs.c.parent_id == parent_id, jobs.c.state.not_in(TERMINAL))
    return db.execute(query.limit(1)).first() is not None


def _wake(db: Connection, parent_id: str, now: datetime) -> None:
    """Queue a waiting parent whose last child has ended. Its row must be locked already."""
    parent = find(db, parent_id)
    if parent.state == JobState.WAITING and not any_unfinished(db, parent_id):
        requeue(db, parent, now, "its children have ended")


def _for_update() -> Select[Any]:
    # SQLite knows no row locks and needs none: its write transactions run one at a time.
    return select(*RECORD).with_for_update()
