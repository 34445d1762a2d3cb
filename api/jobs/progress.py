"""How far a job is, its children included.

A waiting job does nothing itself, so its own fraction stands still; what its
children have done is added by the shares of the work that they stand for.
The time left is the work left over at the pace of the children so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mixlab.ledger.records import Job, JobKind, JobState

# Of a parent's work, by the kinds of parent and child. Measured on the demo: tokenising and
# counting take about a tenth of a fit's time, fitting and solving less than a hundredth. Proxy
# runs are jobs of their own or, with GPUs, stand in groups: the kinds of one share.
SHARES: Mapping[JobKind, Mapping[tuple[JobKind, ...], float]] = {
    JobKind.FIT_MIXTURE: {
        (JobKind.MEASURE_CORPUS,): 0.10,
        (JobKind.TRAIN, JobKind.TRAIN_PROXIES): 0.87,
    },
    JobKind.TRAIN: {(JobKind.MEASURE_CORPUS,): 0.10},
    JobKind.MEASURE_CORPUS: {(JobKind.MEASURE_ENTROPY,): 0.15},
}


@dataclass(frozen=True)
class Progress:
    """What a poller is shown."""

    fraction: float
    eta_seconds: float | None


def progress_of(job: Job, children: Sequence[Job], *, now: datetime) -> Progress:
    """Fraction from 0 to 1 and seconds left, None where nothing tells them."""
    if job.state is not JobState.WAITING or not children:
        return Progress(job.fraction, job.eta_seconds)
    shares = SHARES.get(job.kind, {})
    latest = max(children, key=lambda child: (child.created_at, child.id)).kind
    if not any(latest in kinds for kinds in shares):
        # Such as scores between rounds, which are none of the training's updates.
        return Progress(job.fraction, _seconds_left(children, now))
    done = 0.0
    for kinds, share in shares.items():
        group = [child for child in children if child.kind in kinds]
        if group:
            done += share * sum(map(_done, group)) / len(group)
        elif latest not in kinds and JobKind.MEASURE_CORPUS in kinds:
            done += share  # it was measured before, by another job
    # Its own fraction is what it did before it waited.
    return Progress(min(1.0, job.fraction + done), _seconds_left(children, now))


def _done(job: Job) -> float:
    return 1.0 if job.state.terminal else job.fraction


def _seconds_left(children: Sequence[Job], now: datetime) -> float | None:
    started = [child for child in children if child.started_at is not None]
    spent = sum(
        ((c.finished_at or now) - c.started_at).total_seconds() for c in started if c.started_at
    )
    done = sum(_done(child) for child in started)
    running = sum(child.state is JobState.RUNNING for child in children)
    if done < 0.01 or spent <= 0 or not running:
        return None
    return (len(children) - sum(map(_done, children))) * spent / done / running
