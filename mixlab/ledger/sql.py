"""The ledger: corpora, jobs, training runs and mixtures behind one door.

Each method is one transaction. What a method refuses it raises as an error of
mixlab/errors.py; what the database can't do it raises as SQLAlchemy's.
Threads may share a Ledger; processes may not, so open it after a fork.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

from sqlalchemy import Engine

from mixlab.errors import NotReady
from mixlab.ledger import corpora, jobs, migrating, runs
from mixlab.ledger.engine import WRITES, open_engine
from mixlab.ledger.ids import Clock, Ids, utcnow
from mixlab.ledger.jobs import Heartbeat
from mixlab.ledger.records import (
    Corpus,
    Job,
    JobKind,
    JobState,
    MixtureRecord,
    Queue,
    Run,
    RunRole,
)

__all__ = ["Heartbeat", "Ledger"]

Json = Mapping[str, Any]


class Ledger:
    """The truth about what was asked for and what came of it. Made by `Ledger.open`."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._readers = engine
        self._writers = engine.execution_options(**WRITES)
        self._clock = clock
        self._ids = Ids(clock)

    @classmethod
    def open(cls, url: str, *, clock: Clock = utcnow, migrate: bool = True) -> Self:
        """Open the database of a SQLAlchemy URL, brought to the newest schema unless told not to.

        Raises Conflict where a newer mixlab has moved the database beyond this one's schema.
        """
        if migrate:
            migrating.upgrade(url)
        return cls(open_engine(url), clock)

    def close(self) -> None:
        """Let go of all connections."""
        self._readers.dispose()

    def check(self) -> None:
        """Return if the database answers at this version's schema; else raise.

        NotReady where the schema is another one, SQLAlchemy's error where nothing answers.
        """
        with self._readers.connect() as db:
            db.exec_driver_sql("SELECT 1")
            found = migrating.current(db)
        if found != migrating.head():
            raise NotReady(
                f"The ledger is at revision {found}, not {migrating.head()}; `mixlab up` or "
                "opening it with migrate=True brings it there."
            )

    # Corpora

    def add_corpus(self, name: str, spec: Json) -> Corpus:
        """Register a corpus."""
        values = {"id": self._ids.new("corpus"), "name": name, "spec": spec}
        with self._writers.begin() as db:
            return corpora.add(db, values | {"created_at": self._clock()})

    def corpus(self, corpus_id: str) -> Corpus:
        """The corpus of that id. Raises UnknownCorpus."""
        with self._readers.connect() as db:
            return corpora.find(db, corpus_id)

    def corpora(self, limit: int = 50, after: str | None = None) -> list[Corpus]:
        """Corpora newest first; the page after the one that ended with the id `after`."""
        with self._readers.connect() as db:
            return corpora.page(db, limit, after)

    def record_tokens(self, corpus_id: str, tokens: Json) -> None:
        """Write the token counts per domain. Raises UnknownCorpus."""
        with self._writers.begin() as db:
            corpora.record(db, corpus_id, tokens=tokens)

    def record_entropy(self, corpus_id: str, entropy: Json) -> None:
        """Write the entropy measures per domain, in nats. Raises UnknownCorpus."""
        with self._writers.begin() as db:
            corpora.record(db, corpus_id, entropy=entropy)

    # Jobs: asked for by the API and by parent jobs

    def submit(
        self,
        kind: JobKind,
        payload: Json,
        *,
        queue: Queue,
        parent_id: str | None = None,
        key: str | None = None,
        parent_attempt: int | None = None,
    ) -> Job:
        """Queue a job; the same parent and key again give the first job, whatever the payload.

        The key of a job without a parent is unique among such jobs. Raises UnknownJob for a
        parent that isn't there, LeaseLost for one that has ended or has another attempt now.
        """
        job = {
            "id": self._ids.new("job"), "kind": kind, "queue": queue, "payload": payload,
            "parent_id": parent_id, "key": key, "created_at": self._clock(),
        }  # fmt: skip
        with self._writers.begin() as db:
            return jobs.submit(db, job, parent_attempt)

    def job(self, job_id: str) -> Job:
        """The job of that id. Raises UnknownJob."""
        with self._readers.connect() as db:
            return jobs.find(db, job_id)

    def jobs(
        self,
        state: JobState | None = None,
        kind: JobKind | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Job]:
        """Jobs newest first; the page after the one that ended with the id `after`."""
        with self._readers.connect() as db:
            return jobs.page(db, state, kind, limit, after)

    def children(self, job_id: str) -> list[Job]:
        """A job's children in order of submission."""
        with self._readers.connect() as db:
            return jobs.children(db, job_id)

    def request_cancel(self, job_id: str) -> Job:
        """Ask for a job's end: at once where it is queued or waiting, with all its children.

        A running one is flagged, and stops at its worker's next look. One that has ended is
        left as it is. Raises UnknownJob.
        """
        with self._writers.begin() as db:
            return jobs.request_cancel(db, job_id, self._clock())

    # Jobs: done by workers. An attempt that no longer holds its job gets LeaseLost.

    def claim(self, job_id: str, worker: str, lease_seconds: float) -> Job | None:
        """Make a queued job this worker's until the lease ends; None where another has it."""
        with self._writers.begin() as db:
            return jobs.claim(db, job_id, worker, self._clock(), timedelta(seconds=lease_seconds))

    def heartbeat(self, job_id: str, attempt: int, lease_seconds: float) -> Heartbeat:
        """Lengthen the lease, and learn whether to go on."""
        with self._writers.begin() as db:
            lease = timedelta(seconds=lease_seconds)
            return jobs.heartbeat(db, job_id, attempt, self._clock(), lease)

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
        with self._writers.begin() as db:
            jobs.progress(db, job_id, attempt, values)

    def wait_for_children(self, job_id: str, attempt: int) -> None:
        """Park the job; it is queued again in the transaction that ends its last child."""
        with self._writers.begin() as db:
            jobs.wait_for_children(db, job_id, attempt, self._clock())

    def succeed(self, job_id: str, attempt: int, result: Json) -> None:
        """The job is done; `result` says where what it made is found."""
        with self._writers.begin() as db:
            jobs.end(
                db, job_id, attempt, JobState.SUCCEEDED, self._clock(), result=result, fraction=1.0
            )  # fmt: skip

    def fail(self, job_id: str, attempt: int, error: Json) -> None:
        """The job can't be done; `error` has type, title and detail."""
        with self._writers.begin() as db:
            jobs.end(db, job_id, attempt, JobState.FAILED, self._clock(), error=error)

    def cancelled(self, job_id: str, attempt: int) -> None:
        """The job was stopped because its cancellation was asked for."""
        with self._writers.begin() as db:
            jobs.end(db, job_id, attempt, JobState.CANCELLED, self._clock())

    def give_back(self, job_id: str, attempt: int, reason: str, max_failures: int | None) -> None:
        """The attempt ended without an outcome: queue the job again, or fail it at the cap.

        `max_failures=None` where the job isn't to blame, such as a worker that was told to stop;
        then no failure is counted.
        """
        with self._writers.begin() as db:
            jobs.give_back(db, job_id, attempt, reason, max_failures, self._clock())

    # Jobs: kept moving by the sweep

    def take_back_expired(self, max_failures: int) -> list[Job]:
        """Queue again (or fail, at the cap) the running jobs whose lease has expired."""
        with self._readers.connect() as db:
            due = jobs.expired(db, self._clock())
        taken = []
        for job_id in due:
            with self._writers.begin() as db:
                taken.append(jobs.take_back(db, job_id, max_failures, self._clock()))
        return [job for job in taken if job is not None]

    def unsent(self, resend_after_seconds: float | None = None) -> list[Job]:
        """Queued jobs whose id is not on the broker, oldest first.

        With seconds, also those that were sent longer ago and yet never claimed.
        """
        before = None
        if resend_after_seconds is not None:
            before = self._clock() - timedelta(seconds=resend_after_seconds)
        with self._readers.connect() as db:
            return jobs.unsent(db, before)

    def mark_sent(self, job_id: str, attempt: int | None = None) -> None:
        """Note that a queued job's id is on the broker.

        With the attempt that the job had when it was sent, a job that was claimed and queued
        again in between stays unsent.
        """
        with self._writers.begin() as db:
            jobs.mark_sent(db, job_id, attempt, self._clock())

    # Training runs

    def add_run(
        self,
        job_id: str,
        corpus_id: str,
        role: RunRole,
        mixture: Mapping[str, float],
        recipe: Json,
        seed: int,
        label: str,
    ) -> Run:
        """Begin a job's run; the one that it began before with that label and seed, if it did."""
        values = {
            "id": self._ids.new("run"), "job_id": job_id, "corpus_id": corpus_id, "role": role,
            "mixture": mixture, "recipe": recipe, "seed": seed, "label": label,
            "created_at": self._clock(),
        }  # fmt: skip
        with self._writers.begin() as db:
            return runs.add(db, values)

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises UnknownRun."""
        with self._readers.connect() as db:
            return runs.find(db, run_id)

    def run_of_job(self, job_id: str) -> Run | None:
        """The first run that a job made, most jobs' only one; None before it has made one."""
        return next(iter(self.runs_of_job(job_id)), None)

    def runs_of_job(self, job_id: str) -> list[Run]:
        """All runs that a job made, oldest first."""
        with self._readers.connect() as db:
            return runs.of_job(db, job_id)

    def runs(
        self,
        corpus_id: str | None = None,
        role: RunRole | None = None,
        recipe: str | None = None,
        parent_job_id: str | None = None,
    ) -> list[Run]:
        """Runs oldest first: of a corpus, a role, a recipe's name, the children of a job."""
        with self._readers.connect() as db:
            return runs.matching(db, corpus_id, role, recipe, parent_job_id)

    def record_observation(self, run_id: str, observation: Json) -> None:
        """Write {"step", "tokens", "losses_nats"}; a step measured again is replaced.

        Raises InvalidLoss where a loss is not finite and above 0.
        """
        with self._writers.begin() as db:
            runs.observe(db, run_id, observation)

    def finish_run(
        self,
        run_id: str,
        consumed: Sequence[Json],
        seconds: float | None,
        error: Json | None = None,
    ) -> None:
        """Write the tokens consumed per step range and domain, and the error of a diverged run."""
        values = {"consumed": list(consumed), "seconds": seconds, "error": error}
        with self._writers.begin() as db:
            runs.finish(db, run_id, values)

    # Mixtures

    def add_mixture(
        self,
        corpus_id: str | None,
        job_id: str | None,
        parent_id: str | None,
        proportions: Mapping[str, float],
        fit: Json | None,
        report: Json,
    ) -> MixtureRecord:
        """Keep a mixture; the one that the job kept before, if it did."""
        values = {
            "id": self._ids.new("mix"), "corpus_id": corpus_id, "job_id": job_id,
            "parent_id": parent_id, "proportions": proportions, "fit": fit, "report": report,
            "created_at": self._clock(),
        }  # fmt: skip
        with self._writers.begin() as db:
            return runs.add_mixture(db, values)

    def mixture(self, mixture_id: str) -> MixtureRecord:
        """The mixture of that id. Raises UnknownMixture."""
        with self._readers.connect() as db:
            return runs.find_mixture(db, mixture_id)

    def mixtures(
        self, corpus_id: str | None = None, limit: int = 50, after: str | None = None
    ) -> list[MixtureRecord]:
        """Mixtures newest first, of a corpus or all; the page after the id `after`."""
        with self._readers.connect() as db:
            return runs.mixture_page(db, corpus_id, limit, after)
