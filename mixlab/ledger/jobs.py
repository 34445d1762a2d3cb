"""Jobs in SQL: every transition is one conditional write inside one transaction.

    queued -> running -> succeeded | failed | cancelled
                 |  ^
                 v  |          queued again after a crash (give_back, take_back),
              waiting          or when the last child has ended

A claim raises `attempt`, and whatever an attempt writes carries its number, so
that a worker whose lease was taken back can't write any more. Rows are locked
parent before child, always, so that PostgreSQL can't deadlock and the last of
several children that end at once sees the ends of all others.

A job that ends takes its unfinished children along: the queued and waiting
ones are cancelled, the running ones asked to stop.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select, update

from mixlab.errors import LeaseLost, UnknownJob
from mixlab.ledger.engine import insert_unless_there
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from mixlab.ledger.schema import jobs

TERMINAL = tuple(state for state in JobState if state.terminal)
_RECORD = [column for column in jobs.c if column.name != "sent_at"]


class Heartbeat(StrEnum):
    """What the ledger answers a worker that says it is alive."""

    CONTINUE = "continue"
    CANCEL = "cancel"  # a user asked for it: stop, then record `cancelled`
    LOST = "lost"  # the job is another's now: stop, and write nothing


def as_job(row: Row[Any]) -> Job:
    """A row as the frozen record."""
    values = {column.name: getattr(row, column.name) for column in _RECORD}
    # float too, because SQLite's RETURNING gives 0 for a stored 0.0.
    kinds = {"kind": JobKind, "queue": Queue, "state": JobState, "fraction": float}
    return Job(**values | {name: kind(values[name]) for name, kind in kinds.items()})


def find(db: Connection, job_id: str) -> Job:
    """The job. Raises UnknownJob."""
    row = db.execute(select(*_RECORD).where(jobs.c.id == job_id)).first()
    if row is None:
        raise UnknownJob(f"There is no job {job_id!r}; GET /jobs lists those there are.")
    return as_job(row)


def page(
    db: Connection, state: JobState | None, kind: JobKind | None, limit: int, after: str | None
) -> list[Job]:
    """Jobs newest first, those older than the id `after`."""
    query: Select[Any] = select(*_RECORD).order_by(jobs.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(jobs.c.state == state)
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    if after is not None:
        query = query.where(jobs.c.id < after)
    return [as_job(row) for row in db.execute(query)]


def children(db: Connection, job_id: str) -> list[Job]:
    """A job's children in order of submission."""
    query = select(*_RECORD).where(jobs.c.parent_id == job_id).order_by(jobs.c.id)
    return [as_job(row) for row in db.execute(query)]


def submit(db: Connection, job: Mapping[str, Any], parent_attempt: int | None) -> Job:
    """Insert a queued job, or find the one with the same parent and key."""
    if job["parent_id"] is not None:
        _check_parent(db, job["parent_id"], parent_attempt)
    fresh = {"state": JobState.QUEUED, "fraction": 0.0, "attempt": 0, "failures": 0, "version": 1}
    row = db.execute(
        insert_unless_there(db, jobs).values(**fresh, **job).returning(*_RECORD)
    ).first()
    if row is None:
        row = db.execute(
            select(*_RECORD).where(
                jobs.c.parent_id.is_not_distinct_from(job["parent_id"]), jobs.c.key == job["key"]
            )
        ).one()
    return as_job(row)


def _check_parent(db: Connection, parent_id: str, attempt: int | None) -> None:
    parent = _locked(db, parent_id)
    if parent.state.terminal or attempt not in (None, parent.attempt):
        raise LeaseLost(
            f"Job {parent_id} is {parent.state} in attempt {parent.attempt}; it takes no more "
            f"children from attempt {attempt}."
        )


def claim(db: Connection, job_id: str, worker: str, now: datetime, lease: timedelta) -> Job | None:
    """Make a queued job this worker's; None where it is not queued (any more)."""
    row = db.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            attempt=jobs.c.attempt + 1,
            version=jobs.c.version + 1,
            worker=worker,
            lease_until=now + lease,
            started_at=func.coalesce(jobs.c.started_at, now),
        )
        .returning(*_RECORD)
    ).first()
    return None if row is None else as_job(row)


def heartbeat(
    db: Connection, job_id: str, attempt: int, now: datetime, lease: timedelta
) -> Heartbeat:
    """Lengthen the lease. The version stays, since nothing that a user sees has changed."""
    row = db.execute(
        update(jobs)
        .where(*_held_by(job_id, attempt))
        .values(lease_until=now + lease)
        .returning(jobs.c.cancel_requested_at)
    ).first()
    if row is None:
        return Heartbeat.LOST
    return Heartbeat.CONTINUE if row.cancel_requested_at is None else Heartbeat.CANCEL


def progress(db: Connection, job_id: str, attempt: int, values: Mapping[str, Any]) -> None:
    """Record stage, fraction and ETA. Raises LeaseLost."""
    done = db.execute(
        update(jobs)
        .where(*_held_by(job_id, attempt))
        .values(version=jobs.c.version + 1, **values)
        .returning(jobs.c.id)
    ).first()
    if done is None:
        raise _lost(find(db, job_id), attempt)


def wait_for_children(db: Connection, job_id: str, attempt: int, now: datetime) -> None:
    """Park until the last child ends; queued at once where all have ended already."""
    job = _held(db, job_id, attempt)
    if job.cancel_requested_at is not None:
        _end(db, job, JobState.CANCELLED, now)
    elif _unfinished(db, job_id):
        _put(db, job_id, state=JobState.WAITING, worker=None, lease_until=None, eta_seconds=None)
    else:
        _requeue(db, job_id)


def end(
    db: Connection, job_id: str, attempt: int, state: JobState, now: datetime, **values: Any
) -> None:
    """Record a terminal state. Raises LeaseLost where the attempt no longer holds the job."""
    _end(db, _held(db, job_id, attempt), state, now, **values)


def give_back(
    db: Connection, job_id: str, attempt: int, reason: str, max_failures: int | None, now: datetime
) -> None:
    """Queue the job again; `max_failures=None` where it is not the job's fault."""
    _give_back(db, _held(db, job_id, attempt), reason, max_failures, now)


def take_back(db: Connection, job_id: str, max_failures: int, now: datetime) -> Job | None:
    """Queue the job again if its lease has expired; None where it has not."""
    job = _locked(db, job_id)
    if job.state != JobState.RUNNING or job.lease_until is None or job.lease_until >= now:
        return None
    reason = f"Worker {job.worker} was not heard of since its lease ended at {job.lease_until}."
    _give_back(db, job, reason, max_failures, now)
    return find(db, job_id)


def expired(db: Connection, now: datetime) -> list[str]:
    """Ids of running jobs whose lease has expired."""
    query = select(jobs.c.id).where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now)
    return list(db.scalars(query.order_by(jobs.c.id)))


def _give_back(
    db: Connection, job: Job, reason: str, max_failures: int | None, now: datetime
) -> None:
    failures = job.failures + (max_failures is not None)
    if job.cancel_requested_at is not None:
        _end(db, job, JobState.CANCELLED, now, failures=failures)
    elif max_failures is not None and failures >= max_failures:
        error = {
            "type": "worker-crashed",
            "title": f"The job's process ended {failures} times without an outcome.",
            "detail": reason,
        }
        _end(db, job, JobState.FAILED, now, failures=failures, error=error)
    else:
        _requeue(db, job.id, failures=failures, stage=f"queued again: {reason.splitlines()[0]}")


def request_cancel(db: Connection, job_id: str, now: datetime) -> Job:
    """Cancel at once what is not running; ask a running job to stop; leave an ended one."""
    job = _locked(db, job_id)
    if not job.state.terminal:
        _cancel(db, job, now)
    return find(db, job_id)


def _cancel(db: Connection, job: Job, now: datetime) -> None:
    if job.state != JobState.RUNNING:
        _end(db, job, JobState.CANCELLED, now, cancel_requested_at=job.cancel_requested_at or now)
    elif job.cancel_requested_at is None:
        _put(db, job.id, cancel_requested_at=now)


def _end(db: Connection, job: Job, state: JobState, now: datetime, **values: Any) -> None:
    _put(
        db, job.id, state=state, finished_at=now, lease_until=None, eta_seconds=None, **values
    )  # fmt: skip
    query = _for_update().where(jobs.c.parent_id == job.id, jobs.c.state.not_in(TERMINAL))
    for row in db.execute(query.order_by(jobs.c.id)).all():
        _cancel(db, as_job(row), now)
    if job.parent_id is not None:
        _wake(db, job.parent_id)


def _wake(db: Connection, parent_id: str) -> None:
    """Queue a waiting parent whose last child has ended. Its row must be locked already."""
    if find(db, parent_id).state == JobState.WAITING and not _unfinished(db, parent_id):
        _requeue(db, parent_id)


def _unfinished(db: Connection, parent_id: str) -> bool:
    query = select(jobs.c.id).where(
        jobs.c.parent_id == parent_id, jobs.c.state.not_in(TERMINAL)
    )  # fmt: skip
    return db.execute(query.limit(1)).first() is not None


def _requeue(db: Connection, job_id: str, **values: Any) -> None:
    held = {"worker": None, "lease_until": None, "eta_seconds": None, "sent_at": None}
    _put(db, job_id, state=JobState.QUEUED, **held, **values)


def _put(db: Connection, job_id: str, **values: Any) -> None:
    statement = update(jobs).where(jobs.c.id == job_id)
    db.execute(statement.values(version=jobs.c.version + 1, **values))


def _for_update() -> Select[Any]:
    # SQLite knows no row locks and needs none: its write transactions run one at a time.
    return select(*_RECORD).with_for_update()


def _locked(db: Connection, job_id: str) -> Job:
    parent_id = find(db, job_id).parent_id
    if parent_id is not None:
        db.execute(_for_update().where(jobs.c.id == parent_id))
    return as_job(db.execute(_for_update().where(jobs.c.id == job_id)).one())


def _held(db: Connection, job_id: str, attempt: int) -> Job:
    job = _locked(db, job_id)
    if job.state != JobState.RUNNING or job.attempt != attempt:
        raise _lost(job, attempt)
    return job


def _held_by(job_id: str, attempt: int) -> Sequence[Any]:
    return (jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == JobState.RUNNING)


def _lost(job: Job, attempt: int) -> LeaseLost:
    return LeaseLost(
        f"Attempt {attempt} of job {job.id} may write no more: the job is {job.state}, in "
        f"attempt {job.attempt}."
    )


def unsent(db: Connection, before: datetime | None) -> list[Job]:
    """Queued jobs never put on the broker since they were queued, or last before the time."""
    due: ColumnElement[bool] = jobs.c.sent_at.is_(None)
    if before is not None:
        due = or_(due, jobs.c.sent_at < before)
    query = select(*_RECORD).where(and_(jobs.c.state == JobState.QUEUED, due))
    return [as_job(row) for row in db.execute(query.order_by(jobs.c.id))]


def mark_sent(db: Connection, job_id: str, attempt: int | None, now: datetime) -> None:
    """Note that the id is on the broker."""
    statement = update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
    if attempt is not None:
        statement = statement.where(jobs.c.attempt == attempt)
    db.execute(statement.values(sent_at=now))
