"""Many who ask for anything at the same moment: no deadlock, no job that nobody would end."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random

from mixlab.errors import Conflict, LeaseLost
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobState, Queue
from tests.ledger.making import LEASE, at_once, claimed, submit, told

FAMILIES, CHILDREN, THREADS, ACTS = 2, 4, 6, 30


def family(ledger: Ledger) -> list[str]:
    """A waiting job and its children."""
    parent = claimed(ledger)
    children = [submit(ledger, parent_id=parent.id, key=str(n)).id for n in range(CHILDREN)]
    ledger.wait_for_children(parent.id, 1)
    return [parent.id, *children]


def acts_on(ledger: Ledger, job: Job, worker: str) -> list[Callable[[], object]]:
    """What anybody may do to a job, be it theirs or not."""
    return [
        lambda: ledger.claim(job.id, worker, LEASE),
        lambda: ledger.heartbeat(job.id, job.attempt, LEASE),
        lambda: ledger.progress(job.id, job.attempt, stage="s", fraction=0.5),
        lambda: ledger.succeed(job.id, job.attempt, {}),
        lambda: ledger.give_back(job.id, job.attempt, "stopped", None),
        lambda: ledger.wait_for_children(job.id, job.attempt),
        lambda: submit(ledger, parent_id=job.id, key="late", parent_attempt=job.attempt),
        lambda: ledger.request_pause(job.id),
        lambda: ledger.resume(job.id),
        lambda: ledger.request_cancel(job.id),
    ]


def acting(job_ids: list[str], seed: int) -> Callable[[Ledger], None]:
    """Someone who does anything to any job."""
    # A cancellation rarely, since nothing is left to do afterwards.
    weights = [1.0] * 9 + [0.1]

    def act(ledger: Ledger) -> None:
        chance = Random(seed)
        for _ in range(ACTS):
            acts = acts_on(ledger, ledger.job(chance.choice(job_ids)), f"w{seed}")
            with suppress(LeaseLost, Conflict):
                chance.choices(acts, weights)[0]()

    return act


def end_all(ledger: Ledger, roots: list[str]) -> None:
    """As workers and users would: resume what is held, then do whatever is due."""
    for _ in range(100):
        for root in roots:
            with suppress(Conflict):
                ledger.resume(root)
        for job in ledger.jobs(state=JobState.RUNNING, limit=1000):
            ledger.succeed(job.id, job.attempt, {})
        while (due := ledger.due(Queue.GPU)) is not None:
            job = claimed(ledger, ledger.job(due))
            ledger.succeed(job.id, job.attempt, {})
        if all(job.state.terminal for job in ledger.jobs(limit=1000)):
            return
    raise AssertionError(Counter(job.state for job in ledger.jobs(limit=1000)))


def test_whatever_is_asked_at_once_all_jobs_can_still_end(url: str) -> None:
    ledger = Ledger.open(url)
    families = [family(ledger) for _ in range(FAMILIES)]
    every = [job_id for one in families for job_id in one]
    at_once(url, [acting(every, seed) for seed in range(THREADS)])
    end_all(ledger, [one[0] for one in families])
    for job in ledger.jobs(limit=1000):
        events = Counter(told(ledger, job))
        assert sum(events[state] for state in JobState if state.terminal) == 1
        assert events["started"] == job.attempt
    ledger.close()
