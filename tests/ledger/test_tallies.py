"""What those see who watch the service: counts of everybody's jobs, on both databases."""

import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, JobState, Queue, RunRole
from mixlab.ledger.schema import job_events, jobs
from mixlab.ledger.tallies import EDGES
from tests.ledger.clock import FakeClock


def _job(ledger: Ledger, kind: JobKind = JobKind.TRAIN, queue: Queue = Queue.GPU) -> str:
    return ledger.submit(kind, {}, queue=queue).id


def _claimed(ledger: Ledger, job_id: str) -> int:
    job = ledger.claim(job_id, "host:1", 30)
    assert job is not None
    return job.attempt


def test_an_empty_ledger_counts_nothing_and_names_everything(ledger: Ledger) -> None:
    tally = ledger.tallies.now()
    assert set(tally.jobs) == {(kind, state) for kind in JobKind for state in JobState}
    assert not any(tally.jobs.values())
    assert {queue: one.due for queue, one in tally.waiting.items()} == dict.fromkeys(Queue, 0)
    assert all(one.oldest_since is None for one in tally.waiting.values())
    assert not any(spread.count for spread in tally.durations.values())
    assert (tally.leases_expired, tally.losses) == (0, [])


def test_jobs_are_counted_whoever_asked_for_them(ledger: Ledger) -> None:
    for owner in (None, "key_a", "key_b"):
        ledger.of(owner).submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    _claimed(ledger, _job(ledger, JobKind.FIT_MIXTURE, Queue.CPU))
    tally = ledger.tallies.now()
    assert tally.jobs[JobKind.TRAIN, JobState.QUEUED] == 3
    assert tally.jobs[JobKind.FIT_MIXTURE, JobState.RUNNING] == 1
    assert sum(tally.jobs.values()) == 4
    assert tally.running == {Queue.CPU: 1, Queue.GPU: 0}


def test_the_oldest_due_job_has_waited_since_it_was_last_queued(
    ledger: Ledger, clock: FakeClock
) -> None:
    job_id = _job(ledger)
    submitted = ledger.tallies.now().at
    clock.advance(100)
    _job(ledger)
    assert ledger.tallies.now().waiting[Queue.GPU].due == 2
    assert ledger.tallies.now().waiting[Queue.GPU].oldest_since == submitted
    attempt = _claimed(ledger, job_id)
    clock.advance(50)
    ledger.give_back(job_id, attempt, "the worker was stopped", None)
    waiting = ledger.tallies.now().waiting[Queue.GPU]
    assert waiting.due == 2
    assert waiting.oldest_since == submitted + timedelta(seconds=100)


def test_a_job_that_waits_after_a_failure_is_not_due_before_its_time(
    ledger: Ledger, clock: FakeClock
) -> None:
    job_id = _job(ledger)
    error = {"type": "not-written", "title": "full", "detail": "the disk is full"}
    ledger.give_back(job_id, _claimed(ledger, job_id), "the disk is full", 6, error)
    assert ledger.tallies.now().waiting[Queue.GPU].due == 0
    clock.advance(3600)
    waiting = ledger.tallies.now().waiting[Queue.GPU]
    due_since = ledger.job(job_id).not_before
    assert (waiting.due, waiting.oldest_since) == (1, due_since)
    assert ledger.tallies.now().failures[JobKind.TRAIN] == 1


def test_waits_and_durations_are_of_the_last_hour(ledger: Ledger, clock: FakeClock) -> None:
    slow, quick = _job(ledger), _job(ledger)
    clock.advance(10)
    first = _claimed(ledger, slow)
    clock.advance(90)
    ledger.succeed(quick, _claimed(ledger, quick), {})
    clock.advance(300)
    ledger.fail(slow, first, {"type": "x", "title": "x", "detail": "x"})
    tally = ledger.tallies.now()
    waits = tally.waits[Queue.GPU]
    assert (waits.count, round(waits.total_seconds, 3)) == (2, 110)
    assert waits.at_most[EDGES.index(5.0)] == 0
    assert waits.at_most[EDGES.index(15.0)] == 1
    assert waits.at_most[EDGES.index(300.0)] == 2
    failed = tally.durations[JobKind.TRAIN, JobState.FAILED]
    assert (failed.count, round(failed.total_seconds, 3)) == (1, 390)
    succeeded = tally.durations[JobKind.TRAIN, JobState.SUCCEEDED]
    assert (succeeded.count, succeeded.at_most[0]) == (1, 1)
    clock.advance(3601)
    assert ledger.tallies.now().waits[Queue.GPU].count == 0
    assert ledger.tallies.now().durations[JobKind.TRAIN, JobState.FAILED].count == 0


def test_expired_leases_are_counted_apart_from_other_ends(ledger: Ledger, clock: FakeClock) -> None:
    lost, stopped, failed = _job(ledger), _job(ledger), _job(ledger)
    _claimed(ledger, lost)
    ledger.give_back(stopped, _claimed(ledger, stopped), "the worker was stopped", None)
    ledger.give_back(failed, _claimed(ledger, failed), "signal SIGSEGV", 3)
    clock.advance(31)
    ledger.take_back_expired(3)
    tally = ledger.tallies.now()
    assert tally.leases_expired == 1
    assert tally.failures[JobKind.TRAIN] == 2
    clock.advance(3601)
    assert ledger.tallies.now().leases_expired == 0


def test_so_does_that_of_a_job_that_was_to_pause(ledger: Ledger, clock: FakeClock) -> None:
    job_id = _job(ledger)
    _claimed(ledger, job_id)
    ledger.request_pause(job_id)
    clock.advance(31)
    (taken,) = ledger.take_back_expired(3)
    assert taken.state == JobState.PAUSED
    assert ledger.tallies.now().leases_expired == 1


def test_a_lease_that_expires_once_too_often_counts_too(ledger: Ledger, clock: FakeClock) -> None:
    job_id = _job(ledger)
    _claimed(ledger, job_id)
    clock.advance(31)
    ledger.take_back_expired(1)
    assert ledger.job(job_id).state == JobState.FAILED
    assert ledger.tallies.now().leases_expired == 1


def test_last_losses_are_of_runs_that_train_now(ledger: Ledger) -> None:
    corpus = ledger.add_corpus("c", {})

    def begun() -> tuple[str, int, str]:
        job_id = _job(ledger)
        attempt = _claimed(ledger, job_id)
        run = ledger.add_run(job_id, corpus.id, RunRole.PROXY, {"a": 1.0}, {}, 0, "natural")
        return job_id, attempt, run.id

    def seen(run_id: str, step: int, loss: float) -> None:
        losses = {"step": step, "tokens": step, "losses_nats": {"a": loss}}
        ledger.record_observation(run_id, losses)

    _, _, trains = begun()
    seen(trains, 10, 5.0)
    seen(trains, 20, 4.5)
    ended_job, attempt, ended = begun()
    seen(ended, 10, 3.0)
    ledger.finish_run(ended, [], 1.0)
    ledger.succeed(ended_job, attempt, {})
    begun()  # has measured nothing yet
    losses = ledger.tallies.now().losses
    assert [(one.run_id, one.step, dict(one.losses_nats)) for one in losses] == [
        (trains, 20, {"a": 4.5})
    ]


@pytest.mark.slow
def test_ten_thousand_jobs_are_counted_in_fifty_milliseconds(
    ledger: Ledger, clock: FakeClock
) -> None:
    now = clock()
    rows, events = [], []
    states = [JobState.QUEUED, JobState.RUNNING, *[JobState.SUCCEEDED] * 7, JobState.FAILED]
    for n in range(10_000):
        state, began = states[n % 10], now - timedelta(minutes=n % 50)
        row: dict[str, Any] = {
            "id": f"job_{n:024x}", "kind": JobKind.TRAIN, "queue": Queue.GPU, "state": state,
            "payload": {"mixture": {f"domain_{d}": 0.05 for d in range(20)}}, "fraction": 0.0,
            "attempt": 1, "failures": 0, "version": 3, "priority": 0, "created_at": began,
            "started_at": None if state is JobState.QUEUED else began,
            "finished_at": now if state.terminal else None,
        }  # fmt: skip
        rows.append(row)
        events += [
            {"job_id": row["id"], "seq": seq, "at": began, "event": event, "data": {"attempt": 1}}
            for seq, event in ((1, "submitted"), (2, "started"), (3, state.value))
        ]

    def fill(db: Connection) -> None:
        db.execute(insert(jobs), rows)
        db.execute(insert(job_events), events)

    ledger._db.write(fill)

    def seconds() -> float:
        before = time.perf_counter()
        tally = ledger.tallies.now()
        assert sum(tally.jobs.values()) == 10_000
        return time.perf_counter() - before

    # The least of many, since others use this machine too; the goal itself is not stretched.
    assert any(seconds() < 0.05 for _ in range(100))
