"""Jobs in SQL, as those see them who ask for work: submit, find, list, cancel, pause, resume.

What workers do to jobs stands in attempts.py, the states in transitions.py.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    func,
    or_,
    select,
    update,
)

from mixlab.errors import Conflict, LeaseLost, QuotaExceeded
from mixlab.ledger import transitions
from mixlab.ledger.engine import insert_unless_there
from mixlab.ledger.records import Job, JobEvent, JobState, Queue
from mixlab.ledger.schema import api_keys, job_events, jobs
from mixlab.ledger.transitions import (
    RECORD,
    SEEN,
    TERMINAL,
    as_job,
    is_due,
    locked,
    tell,
    unknown,
)

UNSENT_AT_ONCE = 1000
FRESH = {"state": JobState.QUEUED, "fraction": 0.0, "attempt": 0, "failures": 0, "version": 1}


def find(db: Connection, job_id: str, owner: str | None = None) -> Job:
    """The job, if it is the owner's; None sees all. Raises UnknownJob."""
    job = transitions.find(db, job_id)
    if owner not in (None, job.owner):
        raise unknown(job_id)
    return job


def page(
    db: Connection,
    limit: int,
    after: str | None,
    **filters: Any,
) -> list[Job]:
    """Jobs newest first without payloads, older than the id `after`; None filters nothing."""
    query: Select[Any] = select(*SEEN).order_by(jobs.c.id.desc()).limit(limit)
    for name, value in filters.items():
        if value is not None:
            query = query.where(jobs.c[name] == value)
    if after is not None:
        query = query.where(jobs.c.id < after)
    return [as_job(row) for row in db.execute(query)]


def children(db: Connection, parent_ids: Collection[str]) -> list[Job]:
    """The children of some jobs in order of submission."""
    query = select(*RECORD).where(jobs.c.parent_id.in_(parent_ids)).order_by(jobs.c.id)
    return [as_job(row) for row in db.execute(query)]


_child = jobs.alias("child")
# Made once: it is asked hundreds of times a second, and making it takes longer than asking.
VERSIONS = (
    select(
        jobs.c.id, jobs.c.version, func.count(_child.c.id).label("count_"),
        func.sum(_child.c.version).label("total"),
    )
    .select_from(jobs.outerjoin(_child, _child.c.parent_id == jobs.c.id))
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
    .group_by(jobs.c.id, jobs.c.version)
)  # fmt: skip


def versions(db: Connection, job_ids: Collection[str]) -> dict[str, str]:
    """What changes whenever a job or one of its children does, by id; unknown ids are left out."""
    rows = db.execute(VERSIONS, {"ids": list(job_ids)})
    return {
        row.id: f"{row.version}.{row.count_}.{row.total}" if row.count_ else str(row.version)
        for row in rows
    }


def events(db: Connection, job_id: str, after: int, limit: int) -> list[JobEvent]:
    """A job's events in order, those above the number `after`."""
    query = select(job_events).where(job_events.c.job_id == job_id, job_events.c.seq > after)
    rows = db.execute(query.order_by(job_events.c.seq).limit(limit))
    return [JobEvent(**row._asdict()) for row in rows]


def submit(
    db: Connection, job: Mapping[str, Any], parent_attempt: int | None, max_active: int | None
) -> Job:
    """Insert a queued job, or find the one with the same parent and key.

    A child has its parent's owner and priority, and is held where the parent is being paused.
    """
    values = {**FRESH, **job}
    if job["parent_id"] is not None:
        values |= _of_parent(db, job["parent_id"], parent_attempt)
    row = db.execute(insert_unless_there(db, jobs).values(**values).returning(*RECORD)).first()
    if row is None:
        return as_job(
            db.execute(
                select(*RECORD).where(
                    jobs.c.parent_id.is_not_distinct_from(job["parent_id"]),
                    jobs.c.key == job["key"],
                )
            ).one()
        )
    found = as_job(row)
    tell(db, found.id, found.version, "submitted", found.created_at, {"kind": found.kind})
    if found.owner is not None and found.parent_id is None:
        _check_quota(db, found.owner, max_active)
    return found


def _of_parent(db: Connection, parent_id: str, attempt: int | None) -> dict[str, Any]:
    parent = locked(db, parent_id)
    if parent.state.terminal or attempt not in (None, parent.attempt):
        raise LeaseLost(
            f"Job {parent_id} is {parent.state} in attempt {parent.attempt}; it takes no more "
            f"children from attempt {attempt}."
        )
    inherited: dict[str, Any] = {"owner": parent.owner, "priority": parent.priority}
    if parent.pause_requested_at is not None:
        inherited |= {"state": JobState.PAUSED, "pause_requested_at": parent.pause_requested_at}
    return inherited


def _check_quota(db: Connection, owner: str, max_active: int | None) -> None:
    """Raise QuotaExceeded where the owner has more unfinished jobs than its key, or all, may."""
    # Locked, so that of two that submit at once the second counts the first one's job.
    own = db.scalar(
        select(api_keys.c.max_active_jobs).where(api_keys.c.id == owner).with_for_update()
    )
    most = max_active if own is None else own
    active = select(func.count()).where(
        jobs.c.owner == owner, jobs.c.parent_id.is_(None), jobs.c.state.not_in(TERMINAL)
    )
    if most is not None and db.execute(active).scalar_one() > most:
        raise QuotaExceeded(
            f"This API key has {most} unfinished jobs, as many as it may; wait for one, cancel "
            "one, or have its max_active_jobs raised."
        )


def request_cancel(db: Connection, job_id: str, now: datetime) -> None:
    """Cancel at once what is not running; ask a running job to stop; leave an ended one."""
    job = locked(db, job_id)
    if not job.state.terminal:
        transitions.cancel(db, job, now)


def request_pause(db: Connection, job_id: str, now: datetime) -> None:
    """Hold a queued job; ask a running one to stop for now. Raises Conflict for an ended one."""
    job = locked(db, job_id)
    if job.state.terminal:
        raise Conflict(f"Job {job_id} is {job.state}; only jobs that go on can be paused.")
    transitions.pause(db, job, now)


def resume(db: Connection, job_id: str, now: datetime) -> None:
    """Let a paused job and its children go on. Raises Conflict for an ended one."""
    job = locked(db, job_id)
    if job.state.terminal:
        raise Conflict(f"Job {job_id} is {job.state}; it can't go on. Submit it anew.")
    transitions.resume(db, job, now)


def unsent(
    db: Connection, now: datetime, before: datetime | None, queue: Queue | None
) -> list[Job]:
    """Due jobs never put on the broker since they were queued, or last before the time.

    Without payloads, and not all at once: others who send would send the same.
    """
    sent: ColumnElement[bool] = jobs.c.sent_at.is_(None)
    if before is not None:
        sent = or_(sent, jobs.c.sent_at < before)
    query = select(*SEEN).where(jobs.c.state == JobState.QUEUED, is_due(now), sent)
    if queue is not None:
        query = query.where(jobs.c.queue == queue)
    return [as_job(row) for row in db.execute(query.order_by(jobs.c.id).limit(UNSENT_AT_ONCE))]


def mark_sent(db: Connection, job_id: str, attempt: int | None, now: datetime) -> None:
    """Note that the id is on the broker."""
    statement = update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
    if attempt is not None:
        statement = statement.where(jobs.c.attempt == attempt)
    db.execute(statement.values(sent_at=now))
