"""The ledger as workers and the sweep use it: jobs taken, kept, ended, given back, sent, forgotten.

An attempt that no longer holds its job gets LeaseLost, and has written nothing.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection

from mixlab.ledger import attempts, jobs, retention
from mixlab.ledger.attempts import Heartbeat
from mixlab.ledger.database import Database
from mixlab.ledger.records import Job, JobState, Queue

Json = Mapping[str, Any]


class Work:
    """Jobs as they are done. Part of the Ledger (sql.py)."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def due(self, queue: Queue) -> str | None:
        """Id of the queued job to take next: the highest priority, then the oldest."""
        return self._db.read(lambda db: attempts.due(db, queue, self._db.now()))

    def claim(self, job_id: str, worker: str, lease_seconds: float) -> Job | None:
        """Make a queued job this worker's until the lease ends; None where another has it."""
        lease, made = timedelta(seconds=lease_seconds), list[datetime]()

        def claim(db: Connection) -> Job | None:
            # At each try anew: the database may have been away for longer than a lease.
            now, earlier = self._db.now(), tuple(made)
            made.append(now + lease)
            return attempts.claim(db, job_id, worker, now, lease, earlier=earlier)

        return self._db.write_again(claim)

    def heartbeat(self, job_id: str, attempt: int, lease_seconds: float) -> Heartbeat:
        """Lengthen the lease, and learn whether to go on. Never waits for the database."""
        now, lease = self._db.now(), timedelta(seconds=lease_seconds)
        return self._db.write(lambda db: attempts.heartbeat(db, job_id, attempt, now, lease))

    def progress(
        self,
        job_id: str,
        attempt: int,
        *,
        stage: str,
        fraction: float,
        eta_seconds: float | None = None,
    ) -> None:
        """Write how far the job is; the fraction is held within 0 to 1."""
        held = min(max(float(fraction), 0.0), 1.0)
        values = {"stage": stage, "fraction": held, "eta_seconds": eta_seconds}
        self._db.write_again(
            lambda db: attempts.progress(db, job_id, attempt, self._db.now(), values)
        )

    def wait_for_children(self, job_id: str, attempt: int) -> None:
        """Park the job; it is queued again in the transaction that ends its last child."""
        self._db.write_again(
            lambda db: attempts.wait_for_children(db, job_id, attempt, self._db.now())
        )

    def succeed(self, job_id: str, attempt: int, result: Json) -> None:
        """The job is done; `result` says where what it made is found."""
        self._end(job_id, attempt, JobState.SUCCEEDED, result=result, fraction=1.0)

    def fail(self, job_id: str, attempt: int, error: Json) -> None:
        """The job can't be done; `error` has type, title and detail."""
        self._end(job_id, attempt, JobState.FAILED, error=error)

    def cancelled(self, job_id: str, attempt: int) -> None:
        """The job was stopped because its cancellation was asked for."""
        self._end(job_id, attempt, JobState.CANCELLED)

    def _end(self, job_id: str, attempt: int, state: JobState, **values: Any) -> None:
        self._db.write_again(
            lambda db: attempts.end(db, job_id, attempt, state, self._db.now(), **values)
        )

    def give_back(
        self,
        job_id: str,
        attempt: int,
        reason: str,
        max_failures: int | None,
        error: Json | None = None,
    ) -> None:
        """The attempt ended without an outcome: queue the job again, or fail it at the cap.

        `max_failures=None` where the job isn't to blame, such as a worker that was told to stop;
        then no failure is counted. `error` is what a job met that may pass, and fails with at
        the cap; without it the job crashed.
        """
        self._db.write_again(
            lambda db: attempts.give_back(
                db, job_id, attempt, self._db.now(), reason, max_failures, error
            )
        )

    # What the sweep keeps moving

    def take_back_expired(self, max_failures: int) -> list[Job]:
        """Queue again (or fail, at the cap) the running jobs whose lease has expired."""
        taken = []
        for job_id in self._db.read(lambda db: attempts.expired(db, self._db.now())):
            back = partial(attempts.take_back, job_id=job_id, max_failures=max_failures)
            taken.append(self._db.write_again(partial(back, now=self._db.now())))
        return [job for job in taken if job is not None]

    def unsent(
        self, resend_after_seconds: float | None = None, queue: Queue | None = None
    ) -> list[Job]:
        """The oldest due jobs, of a queue or all, whose id is not on the broker; without payloads.

        With seconds, also those that were sent longer ago and yet never claimed.
        """
        now, before = self._db.now(), None
        if resend_after_seconds is not None:
            before = now - timedelta(seconds=resend_after_seconds)
        return self._db.read(lambda db: jobs.unsent(db, now, before, queue))

    def mark_sent(self, job_id: str, attempt: int | None = None) -> None:
        """Note that a queued job's id is on the broker.

        With the attempt that the job had when it was sent, a job that was claimed and queued
        again in between stays unsent.
        """
        self._db.write_again(lambda db: jobs.mark_sent(db, job_id, attempt, self._db.now()))

    # What is old enough to go

    def prune(self, keep: timedelta) -> int:
        """Forget what ended longer ago and nobody needs: how many trees of jobs were gone through.

        Takes a few at once, since others wait meanwhile; call it until it says 0.
        """
        return self._db.write_again(lambda db: retention.prune(db, self._db.now(), keep))

    def over(self, job_ids: Collection[str], keep: timedelta) -> set[str]:
        """Of those jobs, the ones that ended longer ago, and those that are forgotten."""
        before = self._db.now() - keep
        return self._db.read(lambda db: retention.over(db, job_ids, before))

    def spent_runs(self, run_ids: Collection[str], keep: timedelta) -> set[str]:
        """Of those runs, the proxy runs whose job ended longer ago: their weights serve nobody."""
        before = self._db.now() - keep
        return self._db.read(lambda db: retention.spent_runs(db, run_ids, before))
