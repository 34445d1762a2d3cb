"""What the ledger holds, as frozen values: corpora, jobs, training runs, fits and mixtures.

Ids carry their kind and sort by creation time: `job_0199...`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class JobKind(StrEnum):
    """What a job does; each has one file in `workers/jobs`."""

    MEASURE_CORPUS = "measure_corpus"  # tokenise, then measure entropies
    FIT_MIXTURE = "fit_mixture"  # proxy runs, law, solved mixture
    TRAIN = "train"  # one training run: proxy or full-scale
    TRAIN_PROXIES = "train_proxies"  # several proxy runs on one GPU
    SCORE = "score"  # a part of what a training in rounds has read
    MEASURE_ENTROPY = "measure_entropy"  # of a tokenised corpus, counted on a GPU


class JobState(StrEnum):
    """Where a job stands. Only the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for its child jobs; queued again when the last one ends
    PAUSED = "paused"  # until a user resumes it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Queue(StrEnum):
    """Which workers take a job."""

    CPU = "cpu"
    GPU = "gpu"


class RunRole(StrEnum):
    """Why a training run was made."""

    PROXY = "proxy"  # its observations feed a fit
    FULL = "full"  # it trains with a mixture that is already decided


@dataclass(frozen=True)
class Corpus:
    """Domains of text, and what was measured of them."""

    id: str
    name: str
    spec: Mapping[str, Any]  # domains: {name: {paths, text_field}}, tokenizer, vocabulary, seed
    tokens: Mapping[str, Any] | None  # per domain: train, validation, documents, duplicates, ...
    entropy: Mapping[str, Any] | None  # per domain: shannon, joint, conditional, errors; nats
    created_at: datetime
    owner: str | None


@dataclass(frozen=True)
class Job:
    """One row of the ledger that a worker does."""

    id: str
    kind: JobKind
    queue: Queue
    state: JobState
    payload: Mapping[str, Any]
    parent_id: str | None
    key: str | None  # unique among its parent's children: submitting twice gives the first
    stage: str | None
    fraction: float  # 0 to 1
    eta_seconds: float | None
    attempt: int  # rises at every claim; fences the writes of earlier attempts
    failures: int  # claims that ended in a crash or an expired lease
    worker: str | None
    lease_until: datetime | None
    cancel_requested_at: datetime | None
    error: Mapping[str, Any] | None  # {"type": slug, "title": ..., "detail": ...}
    result: Mapping[str, Any] | None  # {"href": "/mixtures/mix_...", ...}
    version: int  # rises at every change
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    owner: str | None  # id of the API key that asked for it
    priority: int  # of queued jobs, the highest is taken first
    not_before: datetime | None  # a queued job that waits after a failure
    pause_requested_at: datetime | None


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job."""

    job_id: str
    seq: int  # the job's version after it: rises, with gaps
    at: datetime
    event: str  # submitted, started, stage, waiting, queued, paused, ..., succeeded
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A training run: its mixture, recipe and what it measured."""

    id: str
    job_id: str
    corpus_id: str
    role: RunRole
    mixture: Mapping[str, float]  # of a schedule: what all the run's tokens make up
    recipe: Mapping[str, Any]  # Recipe.to_dict()
    seed: int
    label: str  # "natural", "uniform", "design-03", ...
    observations: tuple[Mapping[str, Any], ...]  # {"step", "tokens", "losses_nats": {target: ...}}
    consumed: tuple[Mapping[str, Any], ...]  # {"from_step", "to_step", "tokens": {domain: ...}}
    seconds: float | None  # None until it is finished, and of a run that diverged
    error: Mapping[str, Any] | None  # set where the run diverged

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end, so that all its observations are there."""
        return self.seconds is not None and self.error is None


@dataclass(frozen=True)
class MixtureRecord:
    """A solved (or given) mixture, with the fit and the problem that it came from."""

    id: str
    corpus_id: str | None
    job_id: str | None
    parent_id: str | None  # the mixture whose fit was solved again
    proportions: Mapping[str, float]
    fit: Mapping[str, Any] | None  # Fit.to_dict()
    report: Mapping[str, Any]  # objective, constraints, predictions, reference mixtures, ...
    created_at: datetime
    owner: str | None


class Scope(StrEnum):
    """What an API key may be used for."""

    READ = "read"  # see what the key's owner has asked for
    WRITE = "write"  # ask for work, and stop it
    ADMIN = "admin"  # both, for everybody's


@dataclass(frozen=True)
class ApiKey:
    """An API key without its secret, of which the ledger keeps a hash."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    max_active_jobs: int | None  # None: what the service allows
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None  # within a minute


@dataclass(frozen=True)
class Answer:
    """How a request with an Idempotency-Key was answered; nothing yet while `status` is None."""

    fingerprint: str
    status: int | None
    headers: Mapping[str, str] | None
    body: str | None


@dataclass(frozen=True)
class Worker:
    """A worker process that told that it is alive."""

    id: str
    host: str
    queue: Queue
    slots: int
    gpus: tuple[Mapping[str, Any], ...]  # {"name", "uuid", "memory_bytes", "busy"}
    version: str
    started_at: datetime
    beat_at: datetime
