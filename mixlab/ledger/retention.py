"""What the ledger forgets, and what it keeps for good.

Kept: corpora, runs with their observations, mixtures, and the jobs that made runs or mixtures,
since they say what a mixture rests on. Forgotten, once it ended longer ago than the retention:
the events of jobs, and whole trees of jobs that made neither. Answered requests are forgotten
when they expire, and workers that were silent for a day.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select

from mixlab.ledger.records import RunRole
from mixlab.ledger.schema import job_events, jobs, mixtures, requests, runs, workers
from mixlab.ledger.transitions import TERMINAL

SILENT = timedelta(days=1)
TREES_AT_ONCE = 25  # in a transaction: others may write in between
IDS_AT_ONCE = 1000  # in a statement: databases bound its parameters


def prune(db: Connection, now: datetime, keep: timedelta) -> int:
    """Forget what ended before `now - keep`; how many trees of jobs were gone through."""
    db.execute(delete(requests).where(requests.c.expires_at <= now))
    db.execute(delete(workers).where(workers.c.beat_at < now - SILENT))
    # Only trees that have events left: one that is kept is not gone through for ever.
    told = select(job_events.c.job_id).where(job_events.c.job_id == jobs.c.id).exists()
    over = (jobs.c.state.in_(TERMINAL), jobs.c.finished_at < now - keep)
    roots = select(jobs.c.id).where(jobs.c.parent_id.is_(None), *over, told).order_by(jobs.c.id)
    trees = [_tree(db, root) for root in db.scalars(roots.limit(TREES_AT_ONCE)).all()]
    for tree in trees:
        for ids in _parts(tree):
            db.execute(delete(job_events).where(job_events.c.job_id.in_(ids)))
        if not _made_something(db, tree):
            for ids in reversed(_parts(tree)):  # children before their parents
                db.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return len(trees)


def over(db: Connection, job_ids: Collection[str], before: datetime) -> set[str]:
    """Of those jobs, the ones that ended before, and those that the ledger doesn't know."""
    kept: set[str] = set()
    for ids in _parts(sorted(job_ids)):
        lasting = jobs.c.state.not_in(TERMINAL) | (jobs.c.finished_at >= before)
        kept.update(db.scalars(select(jobs.c.id).where(jobs.c.id.in_(ids), lasting)))
    return set(job_ids) - kept


def spent_runs(db: Connection, run_ids: Collection[str], before: datetime) -> set[str]:
    """Of those runs, the proxy runs whose job ended before."""
    found: set[str] = set()
    for ids in _parts(sorted(run_ids)):
        query = select(runs.c.id).join(jobs, jobs.c.id == runs.c.job_id)
        query = query.where(runs.c.id.in_(ids), runs.c.role == RunRole.PROXY)
        ended = (jobs.c.state.in_(TERMINAL), jobs.c.finished_at < before)
        found.update(db.scalars(query.where(*ended)))
    return found


def _tree(db: Connection, root: str) -> list[str]:
    """A job and all below it, parents first. All of them have ended, or will within a lease."""
    found, level = [root], [root]
    while level:
        below: list[str] = []
        for ids in _parts(level):
            below += db.scalars(select(jobs.c.id).where(jobs.c.parent_id.in_(ids)))
        level = below
        found += level
    return found


def _made_something(db: Connection, tree: list[str]) -> bool:
    """Whether a run or a mixture came of it, or a job of it has not ended."""
    for ids in _parts(tree):
        still = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.state.not_in(TERMINAL))
        for query in (
            still,
            *(select(t.c.id).where(t.c.job_id.in_(ids)) for t in (runs, mixtures)),
        ):
            if db.execute(query.limit(1)).first() is not None:
                return True
    return False


def _parts(ids: list[str]) -> list[list[str]]:
    return [ids[n : n + IDS_AT_ONCE] for n in range(0, len(ids), IDS_AT_ONCE)]
