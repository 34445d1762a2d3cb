"""Threads with a ledger each, at the same moment; and any order of events."""

import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mixlab.errors import Conflict, LeaseLost
from mixlab.ledger import Heartbeat, Ledger
from mixlab.ledger.records import Job, JobEvent, JobState, Queue
from tests.ledger.clock import FakeClock
from tests.ledger.making import at_once, submit


def succeeding(job_id: str) -> Callable[[Ledger], None]:
    return lambda ledger: ledger.succeed(job_id, 1, {})


def parking(job_id: str) -> Callable[[Ledger], None]:
    return lambda ledger: ledger.wait_for_children(job_id, 1)


def cancelling(job_id: str) -> Callable[[Ledger], Job]:
    return lambda ledger: ledger.request_cancel(job_id)


def test_two_claimers_never_both_win(url: str) -> None:
    ledger = Ledger.open(url)
    jobs = [submit(ledger).id for _ in range(20)]

    def claim_all(mine: Ledger) -> list[str]:
        return [job for job in jobs if mine.claim(job, threading.current_thread().name, 30)]

    won = at_once(url, [claim_all] * 6)
    assert sorted(job for each in won for job in each) == jobs
    assert all(ledger.job(job).attempt == 1 for job in jobs)
    ledger.close()


def test_the_same_key_at_once_makes_one_job(url: str) -> None:
    ledger = Ledger.open(url)
    parent = submit(ledger)
    made = at_once(url, [lambda mine: submit(mine, parent_id=parent.id, key="k").id] * 6)
    assert len(set(made)) == 1
    made = at_once(url, [lambda mine: submit(mine, key="k").id] * 6)
    assert len(set(made)) == 1
    ledger.close()


@pytest.mark.parametrize("wait_first", [True, False])
def test_children_that_end_together_wake_the_parent_once(url: str, wait_first: bool) -> None:
    ledger = Ledger.open(url)
    for _ in range(3):
        parent = submit(ledger)
        ledger.claim(parent.id, "w", 30)
        children = [submit(ledger, parent_id=parent.id, key=str(n)).id for n in range(6)]
        for child in children:
            ledger.claim(child, "w", 30)
        works: list[Callable[[Ledger], Any]] = [succeeding(child) for child in children]
        if wait_first:
            ledger.wait_for_children(parent.id, 1)
        else:
            works.append(parking(parent.id))
        before = ledger.job(parent.id).version
        at_once(url, works)
        now = ledger.job(parent.id)
        assert now.state is JobState.QUEUED
        # Parking and waking each raise the version by one; waking twice would show.
        assert now.version - before <= (1 if wait_first else 2)
    ledger.close()


def test_a_cancel_beside_ending_children_leaves_nothing_unfinished(url: str) -> None:
    ledger = Ledger.open(url)
    for _ in range(3):
        parent = submit(ledger)
        ledger.claim(parent.id, "w", 30)
        children = [submit(ledger, parent_id=parent.id, key=str(n)).id for n in range(5)]
        for child in children[:4]:
            ledger.claim(child, "w", 30)
        ledger.wait_for_children(parent.id, 1)
        works: list[Callable[[Ledger], Any]] = [succeeding(child) for child in children[:4]]
        at_once(url, [*works, cancelling(parent.id)])
        assert ledger.job(parent.id).state is JobState.CANCELLED
        assert ledger.job(children[4]).state is JobState.CANCELLED
    ledger.close()


@cache
def migrated() -> bytes:
    """An empty ledger's file, since migrating one for each example takes longest."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        Ledger.open(f"sqlite:///{file}").close()
        return file.read_bytes()


END = {
    "succeed": JobState.SUCCEEDED,
    "fail": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
}


class AnyOrder(RuleBasedStateMachine):
    """Jobs under any sequence of events; the invariants are what the service relies on."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "ledger.sqlite"
        file.write_bytes(migrated())
        self.ledger = Ledger.open(f"sqlite:///{file}", clock=self.clock)
        self.seen: dict[str, Job] = {}
        self.told: dict[str, list[JobEvent]] = {}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    def pick(self, data: st.DataObject) -> Job:
        return self.ledger.job(data.draw(st.sampled_from(sorted(self.seen))))

    @rule(priority=st.integers(-1, 1))
    def submit(self, priority: int) -> None:
        job = submit(self.ledger, priority=priority)
        self.seen[job.id] = job

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), key=st.sampled_from("ab"))
    def submit_child(self, data: st.DataObject, key: str) -> None:
        parent = self.pick(data)
        try:
            child = submit(self.ledger, parent_id=parent.id, key=key, parent_attempt=parent.attempt)
        except LeaseLost:
            assert parent.state.terminal
        else:
            assert (child.parent_id, child.priority) == (parent.id, parent.priority)
            self.seen.setdefault(child.id, child)

    @rule()
    def claim_what_is_due(self) -> None:
        now = self.clock.now
        queued = [job for job in self.seen.values() if job.state is JobState.QUEUED]
        due = [job for job in queued if job.not_before is None or job.not_before <= now]
        first = min(due, key=lambda job: (-job.priority, job.id), default=None)
        assert self.ledger.due(Queue.GPU) == (first and first.id)
        if first is not None:
            assert self.ledger.claim(first.id, "w", 30) is not None

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        job = self.pick(data)
        won = self.ledger.claim(job.id, "w", 30)
        assert (won is not None) == (job.state is JobState.QUEUED)

    @precondition(lambda self: self.seen)
    @rule(
        data=st.data(),
        how=st.sampled_from(
            ["succeed", "fail", "cancelled", "crash", "disk full", "stop", "wait", "progress"]
        ),
        stale=st.integers(0, 1),
    )
    def write(self, data: st.DataObject, how: str, stale: int) -> None:
        job = self.pick(data)
        attempt = job.attempt - stale
        writes: dict[str, Callable[[], None]] = {
            "succeed": lambda: self.ledger.succeed(job.id, attempt, {}),
            "fail": lambda: self.ledger.fail(job.id, attempt, {"type": "x"}),
            "cancelled": lambda: self.ledger.cancelled(job.id, attempt),
            "crash": lambda: self.ledger.give_back(job.id, attempt, "crash", 3),
            "disk full": lambda: self.ledger.give_back(job.id, attempt, "d", 3, {"type": "x"}),
            "stop": lambda: self.ledger.give_back(job.id, attempt, "stop", None),
            "wait": lambda: self.ledger.wait_for_children(job.id, attempt),
            "progress": lambda: self.ledger.progress(job.id, attempt, stage="s", fraction=0.5),
        }
        holds = job.state is JobState.RUNNING and stale == 0
        if holds:
            writes[how]()
            assert self.ledger.job(job.id).version > job.version
        elif how in END and stale == 0 and job.state is END[how]:
            writes[how]()  # the same end again, as after a lost answer
        else:
            with pytest.raises(LeaseLost):
                writes[how]()
        if not holds:
            assert self.ledger.heartbeat(job.id, attempt, 30) is Heartbeat.LOST
            assert self.ledger.job(job.id) == job

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.pick(data)
        asked = self.ledger.request_cancel(job.id)
        assert asked.state.terminal or asked.cancel_requested_at is not None

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), resume=st.booleans())
    def pause_or_resume(self, data: st.DataObject, resume: bool) -> None:
        job = self.pick(data)
        ask = self.ledger.resume if resume else self.ledger.request_pause
        if job.state.terminal:
            with pytest.raises(Conflict):
                ask(job.id)
        else:
            assert (ask(job.id).pause_requested_at is None) == resume

    @rule(seconds=st.sampled_from([10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.ledger.take_back_expired(3)

    @invariant()
    def the_service_can_rely_on_it(self) -> None:
        jobs = {job.id: job for job in self.ledger.jobs(limit=1000)}
        assert set(jobs) == set(self.seen)
        for job in jobs.values():
            before = replace(self.seen[job.id], payload={})  # lists leave it out
            children = [child for child in jobs.values() if child.parent_id == job.id]
            unfinished = [child for child in children if not child.state.terminal]
            assert job.version >= before.version
            assert job == before or job.version > before.version or job.lease_until
            assert not before.state.terminal or job == before  # an end is an end
            assert job.attempt >= before.attempt
            assert job.failures <= 3
            if job.state is JobState.WAITING:
                assert unfinished  # or nobody would ever wake it
            if job.state.terminal:
                assert all(child.cancel_requested_at for child in unfinished)
            assert (job.lease_until is not None) == (job.state is JobState.RUNNING)
            if job.state in (JobState.QUEUED, JobState.PAUSED):
                assert (job.pause_requested_at is None) == (job.state is JobState.QUEUED)
            if job != before:
                self.its_events_tell_it(before, job)
            self.seen[job.id] = job

    def its_events_tell_it(self, before: Job, job: Job) -> None:
        events, known = self.ledger.events(job.id), self.told.get(job.id, [])
        assert events[: len(known)] == known
        numbers = [event.seq for event in events]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] <= job.version
        if job.state is not before.state:
            names = [event.event for event in events[len(known) :]]
            # A change within one transaction may go through several states.
            assert ("started" if job.state is JobState.RUNNING else job.state) in names
        self.told[job.id] = events


AnyOrder.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAnyOrder = AnyOrder.TestCase
