"""The ledger counted, for those who watch the service: one read, everybody's jobs.

How long jobs waited and took is told of the last hour, as a distribution of now and not as
counters that only rise: rows are forgotten (retention.py), and counters that fall would tell
Prometheus of thousands of jobs that never were.
Limits: a wait is that before a job's first attempt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    Text,
    and_,
    case,
    cast,
    extract,
    func,
    or_,
    select,
)

from mixlab.ledger.attempts import LEASE_ENDED
from mixlab.ledger.database import Database
from mixlab.ledger.records import JobKind, JobState, Queue
from mixlab.ledger.schema import job_events, jobs, observations, runs
from mixlab.ledger.transitions import TERMINAL, is_due

LATELY = timedelta(hours=1)
# Seconds: from a solve that is done at once to a run of days.
EDGES = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
MOST_RUNS = 20  # whose last losses are told: the newest that train now


@dataclass(frozen=True)
class Spread:
    """How seconds are distributed: how many lie at or below each of EDGES, how many there are."""

    at_most: tuple[int, ...] = (0,) * len(EDGES)
    count: int = 0
    total_seconds: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """The jobs of a queue that a worker could take now."""

    due: int = 0
    oldest_since: datetime | None = None


@dataclass(frozen=True)
class LastLoss:
    """What a run that trains now measured last."""

    run_id: str
    label: str
    step: int
    losses_nats: Mapping[str, float]


@dataclass(frozen=True)
class Tally:
    """The counts of one moment."""

    at: datetime  # by the ledger's clock
    jobs: Mapping[tuple[JobKind, JobState], int]
    running: Mapping[Queue, int]
    waiting: Mapping[Queue, Waiting]
    waits: Mapping[Queue, Spread]
    durations: Mapping[tuple[JobKind, JobState], Spread]
    failures: Mapping[JobKind, int]  # of jobs that are unfinished or ended in the last hour
    leases_expired: int  # in the last hour
    losses: Sequence[LastLoss]


class Tallies:
    """The counts of a ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def now(self) -> Tally:
        """All counts, from one transaction."""
        now = self._db.now()
        return self._db.read(lambda db: _tally(db, now))


def _tally(db: Connection, now: datetime) -> Tally:
    since = now - LATELY
    census = _census(db, since)
    return Tally(
        at=now,
        jobs=census.jobs,
        running=census.running,
        failures=census.failures,
        waiting=_waiting(db, now),
        waits=_waits(db, since),
        durations=_durations(db, since),
        leases_expired=_leases_expired(db, since),
        losses=_losses(db),
    )


@dataclass(frozen=True)
class _Census:
    """All jobs, from one walk over them."""

    jobs: Mapping[tuple[JobKind, JobState], int]
    running: Mapping[Queue, int]
    failures: Mapping[JobKind, int]


def _census(db: Connection, since: datetime) -> _Census:
    lately = or_(jobs.c.finished_at.is_(None), jobs.c.finished_at >= since)
    failures = func.sum(case((lately, jobs.c.failures), else_=0))
    group = (jobs.c.kind, jobs.c.queue, jobs.c.state)
    counted = {pair: 0 for pair in product(JobKind, JobState)}
    running, failed = dict.fromkeys(Queue, 0), dict.fromkeys(JobKind, 0)
    for row in db.execute(select(*group, func.count(), failures).group_by(*group)):
        kind, queue, state, count, times = row
        counted[JobKind(kind), JobState(state)] += count
        running[Queue(queue)] += count if state == JobState.RUNNING else 0
        failed[JobKind(kind)] += int(times)
    return _Census(counted, running, failed)


def _waiting(db: Connection, now: datetime) -> dict[Queue, Waiting]:
    # What queued a job is the event of its version: nothing else happens to it meanwhile.
    queued_by = and_(job_events.c.job_id == jobs.c.id, job_events.c.seq == jobs.c.version)
    later = and_(jobs.c.not_before.is_not(None), jobs.c.not_before > job_events.c.at)
    since = case((later, jobs.c.not_before), else_=job_events.c.at)
    query = (
        select(jobs.c.queue, func.count().label("due"), func.min(since).label("oldest"))
        .join(job_events, queued_by)
        .where(jobs.c.state == JobState.QUEUED, is_due(now))
        .group_by(jobs.c.queue)
    )
    found = {row.queue: Waiting(row.due, row.oldest) for row in db.execute(query)}
    return {queue: found.get(queue, Waiting()) for queue in Queue}


def _waits(db: Connection, since: datetime) -> dict[Queue, Spread]:
    seconds = _seconds(db, jobs.c.created_at, jobs.c.started_at)
    found = _spreads(db, seconds, jobs.c.started_at >= since, jobs.c.queue)
    return {queue: found.get((queue.value,), Spread()) for queue in Queue}


def _durations(db: Connection, since: datetime) -> dict[tuple[JobKind, JobState], Spread]:
    """Of jobs that were begun: from the first attempt's start, waits between attempts within."""
    seconds = _seconds(db, jobs.c.started_at, jobs.c.finished_at)
    ended = and_(jobs.c.finished_at >= since, jobs.c.started_at.is_not(None))
    found = _spreads(db, seconds, ended, jobs.c.kind, jobs.c.state)
    return {
        (kind, state): found.get((kind.value, state.value), Spread())
        for kind, state in product(JobKind, TERMINAL)
    }


def _spreads(
    db: Connection, seconds: ColumnElement[float], chosen: ColumnElement[bool], *by: Any
) -> dict[tuple[str, ...], Spread]:
    # The offset keeps the databases from putting the difference of times into each comparison.
    each = select(*by, seconds.label("seconds")).where(chosen).offset(0).subquery()
    took = each.c.seconds
    bucket = case(*((took <= edge, n) for n, edge in enumerate(EDGES)), else_=len(EDGES))
    columns = [each.c[column.name] for column in by]
    query: Select[Any] = select(*columns, bucket.label("bucket"), func.count(), func.sum(took))
    counts: dict[tuple[str, ...], list[int]] = {}
    totals: dict[tuple[str, ...], float] = {}
    for *group, place, count, total in db.execute(query.group_by(*columns, "bucket")):
        name = tuple(group)
        counts.setdefault(name, [0] * (len(EDGES) + 1))[place] = count
        totals[name] = totals.get(name, 0.0) + float(total)
    return {name: _spread(counts[name], totals[name]) for name in counts}


def _spread(counts: Sequence[int], total_seconds: float) -> Spread:
    at_most = tuple(sum(counts[: n + 1]) for n in range(len(EDGES)))
    return Spread(at_most, sum(counts), total_seconds)


def _seconds(db: Connection, earlier: Any, later: Any) -> ColumnElement[float]:
    if db.dialect.name == "sqlite":
        seconds: ColumnElement[float] = (func.julianday(later) - func.julianday(earlier)) * 86400.0
        return seconds
    return cast(extract("epoch", later - earlier), Float)


def _leases_expired(db: Connection, since: datetime) -> int:
    told = cast(job_events.c.data, Text).like(f"%{LEASE_ENDED}%")
    ends = job_events.c.event.in_([JobState.QUEUED, JobState.FAILED, JobState.PAUSED])
    query = select(func.count()).where(job_events.c.at >= since, ends, told)
    return int(db.execute(query).scalar_one())


def _losses(db: Connection) -> list[LastLoss]:
    newest = (
        select(func.max(observations.c.step))
        .where(observations.c.run_id == runs.c.id)
        .correlate(runs)
        .scalar_subquery()
    )
    last = and_(observations.c.run_id == runs.c.id, observations.c.step == newest)
    query = (
        select(runs.c.id, runs.c.label, observations.c.step, observations.c.losses_nats)
        .join(jobs, and_(jobs.c.id == runs.c.job_id, jobs.c.state == JobState.RUNNING))
        .join(observations, last)
        .where(runs.c.seconds.is_(None), runs.c.error.is_(None))
        .order_by(runs.c.id.desc())
        .limit(MOST_RUNS)
    )
    return [LastLoss(*row) for row in db.execute(query)]
