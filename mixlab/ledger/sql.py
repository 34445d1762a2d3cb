"""The ledger: corpora, jobs, training runs and mixtures behind one door.

Each method is one transaction. What a method refuses it raises as an error of
mixlab/errors.py; what the database can't do it raises as SQLAlchemy's.
Threads may share a Ledger; processes may not, so open it after a fork.

`Ledger.of(owner)` is the same ledger as an API key sees it: what others asked for isn't there,
and what is asked for through it belongs to that owner.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any, Self

from mixlab.errors import NotReady
from mixlab.ledger import corpora, jobs, migrating, runs
from mixlab.ledger.clock import clock_of
from mixlab.ledger.database import Database
from mixlab.ledger.engine import open_engine
from mixlab.ledger.fleet import Fleet
from mixlab.ledger.ids import Clock
from mixlab.ledger.keys import Keys
from mixlab.ledger.looks import Looks
from mixlab.ledger.records import (
    Corpus,
    Job,
    JobEvent,
    JobKind,
    JobState,
    MixtureRecord,
    Queue,
    Run,
    RunRole,
)
from mixlab.ledger.requests import Requests
from mixlab.ledger.tallies import Tallies
from mixlab.ledger.work import Work

Json = Mapping[str, Any]


class Ledger(Work):
    """The truth about what was asked for and what came of it. Made by `Ledger.open`.

    What workers do with jobs stands in work.py.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._owner: str | None = None  # of what is added
        self._sees: str | None = None  # None: everything
        self._max_active: int | None = None
        self.keys = Keys(database)
        self.requests = Requests(database)
        self.fleet = Fleet(database)
        self.looks = Looks(database)
        self.tallies = Tallies(database)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Clock | None = None,
        migrate: bool = True,
        patience_seconds: float = 0.0,
    ) -> Self:
        """Open the database of a SQLAlchemy URL, brought to the newest schema unless told not to.

        Reads, and writes of workers, are tried again for `patience_seconds` while the database
        is away. Times are the database's own (clock.py). Raises Conflict where a newer mixlab has
        moved it beyond this one's schema.
        """
        if migrate:
            migrating.upgrade(url)
        engine = open_engine(url)
        clock = clock or clock_of(engine)
        return cls(Database(engine, clock, patience_seconds=patience_seconds))

    def of(
        self, owner: str | None, *, everything: bool = False, max_active: int | None = None
    ) -> Self:
        """The same ledger as that owner sees it; None, and `everything`, see all.

        `max_active` is how many unfinished jobs the owner may have whose API key doesn't say.
        """
        seen = copy(self)
        seen._owner, seen._max_active = owner, max_active
        seen._sees = None if everything else owner
        return seen

    @property
    def owner(self) -> str | None:
        """Whom new rows belong to; None where no API key was needed."""
        return self._owner

    def sees(self, owner: str | None) -> bool:
        """Whether what belongs to that owner is there, seen through this ledger."""
        return self._sees in (None, owner)

    def now(self) -> datetime:
        """The time, as all processes of this ledger agree on it."""
        return self._db.now()

    def close(self) -> None:
        """Let go of all connections."""
        self._db.close()

    def check(self) -> None:
        """Return if the database answers at this version's schema; else raise.

        NotReady where the schema is another one, SQLAlchemy's error where nothing answers.
        """
        found = self._db.read(migrating.answering)
        if found != migrating.head():
            raise NotReady(
                f"The ledger is at revision {found}, not {migrating.head()}; `mixlab up` or "
                "opening it with migrate=True brings it there."
            )

    # Corpora

    def add_corpus(self, name: str, spec: Json, *, number: str | None = None) -> Corpus:
        """Register a corpus; the one that was registered before under the same number of an id."""
        values = {
            "id": self._db.ids.new("corpus", number), "name": name, "spec": spec,
            "created_at": self._db.now(), "owner": self._owner,
        }  # fmt: skip
        return self._db.write(lambda db: corpora.add(db, values))

    def corpus(self, corpus_id: str) -> Corpus:
        """The corpus of that id. Raises UnknownCorpus."""
        return self._db.read(lambda db: corpora.find(db, corpus_id, self._sees))

    def corpora(self, limit: int = 50, after: str | None = None) -> list[Corpus]:
        """Corpora newest first; the page after the one that ended with the id `after`."""
        return self._db.read(lambda db: corpora.page(db, limit, after, self._sees))

    def record_tokens(self, corpus_id: str, tokens: Json) -> None:
        """Write the token counts per domain. Raises UnknownCorpus."""
        self._db.write_again(lambda db: corpora.record(db, corpus_id, tokens=tokens))

    def record_entropy(self, corpus_id: str, entropy: Json) -> None:
        """Write the entropy measures per domain, in nats. Raises UnknownCorpus."""
        self._db.write_again(lambda db: corpora.record(db, corpus_id, entropy=entropy))

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
        priority: int = 0,
        max_active: int | None = None,
    ) -> Job:
        """Queue a job; the same parent and key again give the first job, whatever the payload.

        The key of a job without a parent is unique among its owner's such jobs; a child has its
        parent's owner and priority. `max_active` is how many unfinished jobs an owner may have
        whose API key doesn't say. Raises UnknownJob for a parent that isn't there, LeaseLost for
        one that has ended or has another attempt now, QuotaExceeded for an owner with too many.
        """
        if key is not None and parent_id is None and self._owner is not None:
            key = f"{self._owner}/{key}"
        job = {
            "id": self._db.ids.new("job"), "kind": kind, "queue": queue, "payload": payload,
            "parent_id": parent_id, "key": key, "created_at": self._db.now(),
            "owner": self._owner, "priority": priority,
        }  # fmt: skip
        # With a key, a second try finds what the first one made.
        write = self._db.write if key is None else self._db.write_again
        most = self._max_active if max_active is None else max_active
        return write(lambda db: jobs.submit(db, job, parent_attempt, most))

    def job(self, job_id: str) -> Job:
        """The job of that id. Raises UnknownJob."""
        return self._db.read(lambda db: jobs.find(db, job_id, self._sees))

    def jobs(
        self,
        state: JobState | None = None,
        kind: JobKind | None = None,
        limit: int = 50,
        after: str | None = None,
        parent_id: str | None = None,
    ) -> list[Job]:
        """Jobs newest first, without payloads; the page after the one that ended with `after`."""
        filters = {"state": state, "kind": kind, "parent_id": parent_id, "owner": self._sees}
        return self._db.read(lambda db: jobs.page(db, limit, after, **filters))

    def children(self, *job_ids: str) -> list[Job]:
        """Some jobs' children in order of submission."""
        return self._db.read(lambda db: jobs.children(db, job_ids))

    def versions(self, job_ids: Collection[str]) -> dict[str, str]:
        """By id, a text that changes whenever the job or a child of it does."""
        return self._db.read(lambda db: jobs.versions(db, job_ids))

    def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """What happened to a job, in order, above the number `after`. Raises UnknownJob."""

        def read(db: Any) -> list[JobEvent]:
            jobs.find(db, job_id, self._sees)
            return jobs.events(db, job_id, after, limit)

        return self._db.read(read)

    def request_cancel(self, job_id: str) -> Job:
        """Ask for a job's end: at once where it doesn't run, with all its children.

        A running one is flagged, and stops at its worker's next look. One that has ended is
        left as it is. Raises UnknownJob.
        """
        return self._ask(jobs.request_cancel, job_id)

    def request_pause(self, job_id: str) -> Job:
        """Hold a job and its children until `resume`; a running one makes a checkpoint first.

        Raises UnknownJob, and Conflict for a job that has ended.
        """
        return self._ask(jobs.request_pause, job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job and its children go on; any other is left as it is.

        Raises UnknownJob, and Conflict for a job that has ended.
        """
        return self._ask(jobs.resume, job_id)

    def _ask(self, request: Any, job_id: str) -> Job:
        # Not within the transaction: the clock may have to ask, by a connection more, and where
        # many hold one and wait for the clock there is none left.
        now = self._db.now()

        def ask(db: Any) -> Job:
            jobs.find(db, job_id, self._sees)
            request(db, job_id, now)
            return jobs.find(db, job_id)

        return self._db.write_again(ask)

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
            "id": self._db.ids.new("run"), "job_id": job_id, "corpus_id": corpus_id, "role": role,
            "mixture": mixture, "recipe": recipe, "seed": seed, "label": label,
            "created_at": self._db.now(),
        }  # fmt: skip
        return self._db.write_again(lambda db: runs.add(db, values))

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises UnknownRun."""
        return self._db.read(lambda db: runs.find(db, run_id, self._sees))

    def run_of_job(self, job_id: str) -> Run | None:
        """The first run that a job made, most jobs' only one; None before it has made one."""
        return next(iter(self.runs_of_job(job_id)), None)

    def runs_of_job(self, job_id: str) -> list[Run]:
        """All runs that a job made, oldest first."""
        return self._db.read(lambda db: runs.of_job(db, job_id))

    def runs(
        self,
        corpus_id: str | None = None,
        role: RunRole | None = None,
        recipe: str | None = None,
        parent_job_id: str | None = None,
    ) -> list[Run]:
        """Runs oldest first: of a corpus, a role, a recipe's name, the children of a job."""
        return self._db.read(lambda db: runs.matching(db, corpus_id, role, recipe, parent_job_id))

    def record_observation(self, run_id: str, observation: Json) -> None:
        """Write {"step", "tokens", "losses_nats"}; a step measured again is replaced.

        Raises InvalidLoss where a loss is not finite and above 0.
        """
        self._db.write_again(lambda db: runs.observe(db, run_id, observation))

    def finish_run(
        self,
        run_id: str,
        consumed: Sequence[Json],
        seconds: float | None,
        error: Json | None = None,
    ) -> None:
        """Write the tokens consumed per step range and domain, and the error of a diverged run."""
        values = {"consumed": list(consumed), "seconds": seconds, "error": error}
        self._db.write_again(lambda db: runs.finish(db, run_id, values))

    # Mixtures

    def add_mixture(
        self,
        corpus_id: str | None,
        job_id: str | None,
        parent_id: str | None,
        proportions: Mapping[str, float],
        fit: Json | None,
        report: Json,
        *,
        number: str | None = None,
    ) -> MixtureRecord:
        """Keep a mixture; the one kept before for the job, or under the number, if it was.

        A job's owner is its own.
        """
        values = {
            "id": self._db.ids.new("mix", number), "corpus_id": corpus_id, "job_id": job_id,
            "parent_id": parent_id, "proportions": proportions, "fit": fit, "report": report,
            "created_at": self._db.now(), "owner": self._owner,
        }  # fmt: skip
        write = self._db.write if job_id is None else self._db.write_again
        return write(lambda db: runs.add_mixture(db, values))

    def mixture(self, mixture_id: str) -> MixtureRecord:
        """The mixture of that id. Raises UnknownMixture."""
        return self._db.read(lambda db: runs.find_mixture(db, mixture_id, self._sees))

    def mixtures(
        self, corpus_id: str | None = None, limit: int = 50, after: str | None = None
    ) -> list[MixtureRecord]:
        """Mixtures newest first, of a corpus or all; the page after the id `after`."""
        return self._db.read(
            lambda db: runs.mixture_page(db, corpus_id, limit, after, self._sees)
        )  # fmt: skip
