"""What workers do to jobs in SQL: claim, keep, park, end, give back.

A claim raises `attempt`, and whatever an attempt writes carries its number, so
that a worker whose lease was taken back can't write any more.

A job that failed in passing (a crash, a lease that expired, a network that was
away) is queued again, until a cap. It waits before the next attempt, twice as
long each time; the first crash costs no wait, since most are the machine's.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, select, update

from mixlab.errors import LeaseLost
from mixlab.ledger.records import Job, JobState, Queue
from mixlab.ledger.schema import job_events, jobs
from mixlab.ledger.transitions import (
    NOBODY,
    RECORD,
    any_unfinished,
    as_job,
    find,
    finish,
    held,
    held_by,
    is_due,
    locked,
    lost,
    put,
    requeue,
    tell,
)

STEADY = timedelta(hours=1)
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 300.0
LEASE_ENDED = "was not heard of since its lease ended"


class Heartbeat(StrEnum):
    """What the ledger answers a worker that says it is alive."""

    CONTINUE = "continue"
    CANCEL = "cancel"  # a user asked for it: stop, then record `cancelled`
    PAUSE = "pause"  # a user asked for it: stop with a checkpoint, then give the job back
    LOST = "lost"  # the job is another's now: stop, and write nothing


def due(db: Connection, queue: Queue, now: datetime) -> str | None:
    """Id of the queued job to take next: the highest priority, then the oldest."""
    query = select(jobs.c.id).where(jobs.c.queue == queue, jobs.c.state == JobState.QUEUED)
    query = query.where(is_due(now))
    return db.scalar(query.order_by(jobs.c.priority.desc(), jobs.c.id).limit(1))


def claim(
    db: Connection,
    job_id: str,
    worker: str,
    now: datetime,
    lease: timedelta,
    *,
    earlier: Collection[datetime] = (),
) -> Job | None:
    """Make a queued job this worker's; None where it is not queued (any more).

    `earlier`: when the leases end of the same claim's tries before, whose answers were lost with
    their connections.
    """
    if earlier and (mine := _claimed(db, job_id, worker, earlier, now + lease)) is not None:
        return mine
    row = db.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            attempt=jobs.c.attempt + 1,
            version=jobs.c.version + 1,
            worker=worker,
            lease_until=now + lease,
            not_before=None,
            started_at=func.coalesce(jobs.c.started_at, now),
        )
        .returning(*RECORD)
    ).first()
    if row is None:
        return None
    job = as_job(row)
    tell(db, job.id, job.version, "started", now, {"attempt": job.attempt, "worker": worker})
    return job


def _claimed(
    db: Connection, job_id: str, worker: str, earlier: Collection[datetime], until: datetime
) -> Job | None:
    this = (jobs.c.id == job_id, jobs.c.worker == worker, jobs.c.lease_until.in_(earlier))
    mine = update(jobs).where(*this, jobs.c.state == JobState.RUNNING).values(lease_until=until)
    row = db.execute(mine.returning(*RECORD)).first()
    return None if row is None else as_job(row)


def heartbeat(
    db: Connection, job_id: str, attempt: int, now: datetime, lease: timedelta
) -> Heartbeat:
    """Lengthen the lease. The version stays, since nothing that a user sees has changed."""
    row = db.execute(
        update(jobs)
        .where(*held_by(job_id, attempt))
        .values(lease_until=now + lease)
        .returning(jobs.c.cancel_requested_at, jobs.c.pause_requested_at)
    ).first()
    if row is None:
        return Heartbeat.LOST
    if row.cancel_requested_at is not None:
        return Heartbeat.CANCEL
    return Heartbeat.CONTINUE if row.pause_requested_at is None else Heartbeat.PAUSE


def progress(
    db: Connection, job_id: str, attempt: int, now: datetime, values: Mapping[str, Any]
) -> None:
    """Record stage, fraction and ETA; a new stage is an event. Raises LeaseLost."""
    # In a write transaction of SQLite, or of a row that only its attempt writes: no race.
    before = db.scalar(select(jobs.c.stage).where(*held_by(job_id, attempt)))
    version = db.execute(
        update(jobs)
        .where(*held_by(job_id, attempt))
        .values(version=jobs.c.version + 1, **values)
        .returning(jobs.c.version)
    ).scalar()
    if version is None:
        raise lost(find(db, job_id), attempt)
    if before != values["stage"]:
        tell(db, job_id, version, "stage", now, {"stage": values["stage"]})


def wait_for_children(db: Connection, job_id: str, attempt: int, now: datetime) -> None:
    """Park until the last child ends; queued at once where all have ended already."""
    job = held(db, job_id, attempt)
    if job.cancel_requested_at is not None:
        finish(db, job, JobState.CANCELLED, now)
    elif any_unfinished(db, job_id):
        put(db, job_id, "waiting", now, state=JobState.WAITING, **NOBODY)
    else:
        requeue(db, job, now, "its children have ended")


def end(
    db: Connection, job_id: str, attempt: int, state: JobState, now: datetime, **values: Any
) -> None:
    """Record a terminal state; the same attempt's second record of it changes nothing.

    Raises LeaseLost where the attempt no longer holds the job.
    """
    try:
        job = held(db, job_id, attempt)
    except LeaseLost:
        now_it_is = find(db, job_id)
        if (now_it_is.state, now_it_is.attempt) == (state, attempt):
            return  # this very write, whose answer was lost with its connection
        raise
    told: dict[str, Any] = {name: values[name] for name in ("result", "error") if name in values}
    finish(db, job, state, now, told, **values)


def give_back(
    db: Connection, job_id: str, attempt: int, now: datetime, reason: str,
    max_failures: int | None, error: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    """Queue the job again; `max_failures=None` where it is not the job's fault."""
    _give_back(db, held(db, job_id, attempt), now, reason, max_failures, error)


def take_back(db: Connection, job_id: str, max_failures: int, now: datetime) -> Job | None:
    """Queue the job again if its lease has expired; None where it has not."""
    job = locked(db, job_id)
    if job.state != JobState.RUNNING or job.lease_until is None or job.lease_until >= now:
        return None
    reason = f"Worker {job.worker} {LEASE_ENDED} at {job.lease_until}."
    _give_back(db, job, now, reason, max_failures, None)
    return find(db, job_id)


def expired(db: Connection, now: datetime) -> list[str]:
    """Ids of running jobs whose lease has expired."""
    query = select(jobs.c.id).where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now)
    return list(db.scalars(query.order_by(jobs.c.id)))


def _give_back(
    db: Connection, job: Job, now: datetime, reason: str, max_failures: int | None,
    error: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    failures = _failures_before(db, job, now) + (max_failures is not None)
    if job.cancel_requested_at is not None:
        finish(db, job, JobState.CANCELLED, now, failures=failures)
    elif max_failures is not None and failures >= max_failures:
        told = error or {
            "type": "worker-crashed",
            "title": f"The job's process ended {failures} times without an outcome.",
            "detail": reason,
        }
        finish(db, job, JobState.FAILED, now, {"error": told}, failures=failures, error=told)
    else:
        line = (reason.splitlines() or [""])[0]
        blamed = max_failures is not None
        wait = wait_seconds(failures - (error is None)) if blamed else 0.0
        requeue(
            db, job, now, line,
            failures=failures,
            stage=f"queued again: {line}",
            not_before=now + timedelta(seconds=wait) if wait else None,
        )  # fmt: skip


def _failures_before(db: Connection, job: Job, now: datetime) -> int:
    """The failures that still count: none after an attempt that worked for long.

    Else a run of weeks would end at its third crash, though each was a week apart.
    """
    began = (job_events.c.job_id == job.id, job_events.c.event == "started")
    last = db.scalar(select(func.max(job_events.c.at)).where(*began))
    return 0 if last is not None and now - last > STEADY else job.failures


def wait_seconds(failures: int) -> float:
    """The wait before the next attempt: nothing, 5 s, 10 s, 20 s, ... up to 5 minutes."""
    if failures < 1:
        return 0.0
    return float(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(failures - 1, 10)))
