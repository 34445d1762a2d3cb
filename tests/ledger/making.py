"""Jobs as the ledger's tests make them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue

LEASE = 30.0


def submit(ledger: Ledger, **options: Any) -> Job:
    return ledger.submit(JobKind.TRAIN, {"seed": 1}, queue=Queue.GPU, **options)


def claimed(ledger: Ledger, job: Job | None = None) -> Job:
    found = ledger.claim((job or submit(ledger)).id, "w:1", LEASE)
    assert found is not None
    return found


def state(ledger: Ledger, job: Job) -> JobState:
    return ledger.job(job.id).state


def told(ledger: Ledger, job: Job) -> list[str]:
    """What happened to a job, in words."""
    return [event.event for event in ledger.events(job.id)]


def at_once(url: str, works: Sequence[Callable[[Ledger], Any]]) -> list[Any]:
    """Each work in a thread of its own with a ledger of its own, started together."""
    barrier = threading.Barrier(len(works))

    def do(work: Callable[[Ledger], Any]) -> Any:
        ledger = Ledger.open(url)
        barrier.wait()
        try:
            return work(ledger)
        finally:
            ledger.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(do, works))
