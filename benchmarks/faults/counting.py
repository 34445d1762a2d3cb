"""What came of it: finished once, lost, done twice, and how long recovery took."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.faults.injuries import Hurt
from benchmarks.faults.load import CHILDREN, Load
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState


@dataclass(frozen=True)
class Count:
    """The books of one run of the suite."""

    jobs: int  # acknowledged, and their children
    finished_once: int
    failed: Mapping[str, int]  # by the error's type
    lost: Sequence[str]  # acknowledged, and not there or never ended
    doubled: Sequence[str]  # an end, an effect or a child twice
    attempts: int
    refused_writes: int  # of attempts that no longer held their job
    recovery_seconds: Sequence[float]  # from a worker's death to the next attempt, each job


def count(load: Load, hurt: Hurt, unanswered: Sequence[str] = ()) -> Count:
    """Look at everything that the ledger says."""
    ledger = hurt.ledger
    everything = {job.id: job for job in _all(ledger)}
    asked = load.done.all
    events = {job_id: ledger.events(job_id, limit=100_000) for job_id in everything}
    ends = {job_id: _ends(told) for job_id, told in events.items()}
    lost = [j for j in asked if j not in everything or not everything[j].state.terminal]
    finished = [job for job in everything.values() if job.state is JobState.SUCCEEDED]
    failed = Counter(
        str((job.error or {}).get("type", job.state.value))
        for job in everything.values()
        if job.state.terminal and job.state is not JobState.SUCCEEDED
    )
    return Count(
        jobs=len(everything),
        finished_once=sum(ends[job.id] == 1 for job in finished),
        failed=failed,
        lost=[*lost, *unanswered],
        doubled=[job_id for job_id, n in ends.items() if n > 1]
        + _effects_twice(ledger, everything, load),
        attempts=sum(job.attempt for job in everything.values()),
        refused_writes=_refused(hurt),
        recovery_seconds=[
            r for each in hurt.orphaned if (r := _recovery(each, events)) is not None
        ],
    )


def _all(ledger: Ledger) -> list[Job]:
    found: list[Job] = []
    while page := ledger.jobs(limit=1000, after=found[-1].id if found else None):
        found += page
    return found


def _ends(told: Sequence[Any]) -> int:
    terminal = {state.value for state in JobState if state.terminal}
    return sum(each.event in terminal for each in told)


def _effects_twice(ledger: Ledger, everything: Mapping[str, Job], load: Load) -> list[str]:
    """Jobs with two effects, families with other than their children, requests with two jobs."""
    wrong = []
    found = [m.job_id for m in ledger.mixtures(limit=100_000) if m.job_id is not None]
    wrong += [job_id for job_id, n in Counter(found).items() if n > 1]
    for job_id in load.done.families:
        if job_id in everything and len(ledger.children(job_id)) != CHILDREN:
            wrong.append(job_id)
    for kind, ids in ((JobKind.FIT_MIXTURE, load.done.fits), (JobKind.TRAIN, load.done.trainings)):
        tops = [j for j, job in everything.items() if job.kind is kind and job.parent_id is None]
        real = {j for j in tops if "act" not in ledger.job(j).payload}  # lists leave payloads out
        wrong += sorted(real - set(ids))  # nobody was told of it: its request made another, too
    return wrong


def _refused(hurt: Hurt) -> int:
    logs = (hurt.cluster.home / "logs").glob("*.log")
    return sum(log.read_bytes().count(b"may write no more") for log in logs)


def _recovery(orphan: tuple[str, int, float], events: Mapping[str, Sequence[Any]]) -> float | None:
    """Seconds until the orphan's next attempt; None where it needed none."""
    job_id, attempt, killed = orphan
    for each in events.get(job_id, ()):
        if each.event == "started" and each.data["attempt"] == attempt + 1:
            return float(each.at.timestamp() - killed)
    return None


def markdown(title: str, found: Count, seconds: float, injuries: Mapping[str, int]) -> str:
    """A section of the results."""
    recovery = sorted(found.recovery_seconds)
    told = (
        f"{len(recovery)} jobs of killed workers ran again after {median(recovery):.1f} s in the "
        f"median, {recovery[-1]:.1f} s at most, a free slot waited for among them"
        if recovery
        else "no job's worker was killed while it ran"
    )
    lines = [
        f"## {title}",
        "",
        f"{sum(injuries.values())} faults in {seconds:.0f} s; {told}.",
        "",
        "| jobs acknowledged, children included | finished exactly once | failed | lost | doubled "
        "| attempts | late writes refused |",
        "|---|---|---|---|---|---|---|",
        f"| {found.jobs} | {found.finished_once} | {_failures(found.failed)} | {len(found.lost)} "
        f"| {len(found.doubled)} | {found.attempts} | {found.refused_writes} |",
        "",
        "Faults: " + ", ".join(f"{name} {n}" for name, n in sorted(injuries.items())) + ".",
    ]
    return "\n".join(lines)


def _failures(failed: Mapping[str, int]) -> str:
    told = ", ".join(f"{n} {name}" for name, n in sorted(failed.items()))
    return f"{sum(failed.values())} ({told})" if told else "0"
