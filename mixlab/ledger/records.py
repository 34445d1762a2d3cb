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
    MEASURE_ENTROPY = "measure_entropy"  # of a tokenised corpus, counted on a GPU


class JobState(StrEnum):
    """Where a job stands. Only the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for its child jobs; queued again when the last one ends
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
