"""Jobs in SQL as those see them who follow them: many at once, with their children.

Payloads stay where they are: a table of observations may have megabytes, and
who follows a job needs none of it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, and_, bindparam, or_, select

from mixlab.ledger.database import Database
from mixlab.ledger.records import Job, JobEvent
from mixlab.ledger.schema import job_events, jobs
from mixlab.ledger.transitions import SEEN, as_job

# SQLite refuses expressions deeper than 1,000, and each OR is one deeper.
AT_ONCE = 200

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """A job and its children at one moment, without their payloads."""

    job: Job
    children: Sequence[Job]

    @property
    def version(self) -> str:
        """What `Ledger.versions` says of the job at that moment."""
        if not self.children:
            return str(self.job.version)
        total = sum(child.version for child in self.children)
        return f"{self.job.version}.{len(self.children)}.{total}"


class Looks:
    """What a ledger shows to those who follow jobs, whoever's they are."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def at(self, job_ids: Collection[str]) -> list[Look]:
        """Some jobs, each with its children in order of submission; unknown ids are left out."""
        return self._db.read(lambda db: _looks(db, job_ids))

    def news(self, after: Mapping[str, int]) -> list[JobEvent]:
        """The events of some jobs above a number for each, in their order."""
        return self._db.read(lambda db: _news(db, after))


# Made once: making a statement takes longer than executing it.
_THESE = select(*SEEN).where(jobs.c.id.in_(bindparam("ids", expanding=True)))
_THEIR_CHILDREN = (
    select(*SEEN).where(jobs.c.parent_id.in_(bindparam("ids", expanding=True))).order_by(jobs.c.id)
)


def _looks(db: Connection, job_ids: Collection[str]) -> list[Look]:
    found = [as_job(row) for row in db.execute(_THESE, {"ids": list(job_ids)})]
    families: dict[str, list[Job]] = {job.id: [] for job in found}
    for row in db.execute(_THEIR_CHILDREN, {"ids": list(families)}):
        families[row.parent_id].append(as_job(row))
    return [Look(job, families[job.id]) for job in found]


def _news(db: Connection, after: Mapping[str, int]) -> list[JobEvent]:
    found = []
    for some in _parts(after.items(), AT_ONCE):
        wanted = [and_(job_events.c.job_id == i, job_events.c.seq > seq) for i, seq in some]
        query = select(job_events).where(or_(*wanted))
        rows = db.execute(query.order_by(job_events.c.job_id, job_events.c.seq))
        found += [JobEvent(**row._asdict()) for row in rows]
    return found


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
