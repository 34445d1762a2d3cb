"""What the ledger forgets, and what it keeps for good."""

from datetime import timedelta

import pytest

from mixlab.errors import UnknownJob
from mixlab.ledger import Ledger, retention
from mixlab.ledger.records import Job, JobState, Queue, Run, RunRole
from tests.ledger.clock import FakeClock
from tests.ledger.making import claimed, state, submit, told

KEEP = timedelta(days=30)
MONTH = 31 * 86_400


def prune(ledger: Ledger) -> int:
    """As the sweep does."""
    trees = 0
    while found := ledger.prune(KEEP):
        trees += found
    return trees


def ended(ledger: Ledger, **options: str) -> Job:
    job = submit(ledger, **options)
    claimed(ledger, job)
    ledger.succeed(job.id, 1, {})
    return job


def run_of(ledger: Ledger, job: Job, role: RunRole = RunRole.PROXY) -> Run:
    corpus = ledger.add_corpus("c", {})
    return ledger.add_run(job.id, corpus.id, role, {"a": 1.0}, {}, 0, "n")


def test_whole_trees_of_which_nothing_came(ledger: Ledger, clock: FakeClock) -> None:
    parent = claimed(ledger)
    child = submit(ledger, parent_id=parent.id, key="a")
    claimed(ledger, child)
    grandchild = submit(ledger, parent_id=child.id, key="b")
    ledger.fail(parent.id, 1, {"type": "x"})
    ledger.cancelled(child.id, 1)
    clock.advance(MONTH)
    young, unfinished = ended(ledger), submit(ledger)
    assert prune(ledger) == 1
    for gone in (parent, child, grandchild):
        with pytest.raises(UnknownJob):
            ledger.job(gone.id)
    assert {job.id for job in ledger.jobs()} == {young.id, unfinished.id}
    assert told(ledger, young) == ["submitted", "started", "succeeded"]


def test_what_results_rest_on_is_kept_without_its_events(ledger: Ledger, clock: FakeClock) -> None:
    parent = claimed(ledger)
    child = ended(ledger, parent_id=parent.id, key="a")
    run = run_of(ledger, child)
    ledger.record_observation(run.id, {"step": 1, "tokens": 1, "losses_nats": {"a": 1.0}})
    ledger.succeed(parent.id, 1, {})
    solved = ended(ledger)
    mixture = ledger.add_mixture(None, solved.id, None, {"a": 1.0}, None, {})
    before = {job.id: ledger.job(job.id) for job in (parent, child, solved)}
    clock.advance(MONTH)
    assert prune(ledger) == 2
    assert {job_id: ledger.job(job_id) for job_id in before} == before
    assert ledger.run(run.id).observations
    assert ledger.mixture(mixture.id) == mixture
    assert [told(ledger, job) for job in (parent, child, solved)] == [[], [], []]
    assert prune(ledger) == 0


@pytest.mark.parametrize("how", ["queued", "running", "waiting", "paused"])
def test_what_goes_on_is_kept_however_old(ledger: Ledger, clock: FakeClock, how: str) -> None:
    job = submit(ledger)
    if how in ("running", "waiting"):
        claimed(ledger, job)
    if how == "waiting":
        ended(ledger, parent_id=job.id, key="a")
        submit(ledger, parent_id=job.id, key="b")
        ledger.wait_for_children(job.id, 1)
    if how == "paused":
        ledger.request_pause(job.id)
    clock.advance(MONTH)
    assert prune(ledger) == 0
    assert state(ledger, job) == how
    assert told(ledger, job)[0] == "submitted"


def test_a_child_that_has_not_ended_keeps_its_tree(ledger: Ledger, clock: FakeClock) -> None:
    parent = claimed(ledger)
    child = submit(ledger, parent_id=parent.id, key="a")
    claimed(ledger, child)
    ledger.fail(parent.id, 1, {"type": "x"})
    clock.advance(MONTH)
    prune(ledger)
    assert state(ledger, parent) is JobState.FAILED
    assert state(ledger, child) is JobState.RUNNING


def test_many_go_in_several_calls(
    ledger: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TREES_AT_ONCE", 3)
    monkeypatch.setattr(retention, "IDS_AT_ONCE", 2)
    for _ in range(4):
        parent = claimed(ledger)
        for key in "abcde":
            submit(ledger, parent_id=parent.id, key=key)
        ledger.fail(parent.id, 1, {"type": "x"})
    clock.advance(MONTH)
    assert [ledger.prune(KEEP) for _ in range(3)] == [3, 1, 0]
    assert ledger.jobs() == []


def test_answered_requests_and_silent_workers_go_too(ledger: Ledger, clock: FakeClock) -> None:
    for key, keep in (("short", timedelta(hours=1)), ("long", timedelta(days=9))):
        ledger.requests.begin("", key, "f", keep=keep)
        ledger.requests.answer("", key, 202, {}, "")
    beat = {"host": "h", "queue": Queue.CPU, "slots": 1, "version": "1"}
    ledger.fleet.beat("silent", **beat)  # type: ignore[arg-type]
    clock.advance(86_401)
    ledger.fleet.beat("alive", **beat)  # type: ignore[arg-type]
    prune(ledger)
    assert [worker.id for worker in ledger.fleet.workers()] == ["alive"]
    assert ledger.requests.begin("", "long", "f", keep=KEEP) is not None
    assert ledger.requests.begin("", "short", "f", keep=KEEP) is None


def test_which_logs_and_weights_serve_nobody(ledger: Ledger, clock: FakeClock) -> None:
    old, goes_on = ended(ledger), claimed(ledger)
    proxy, full, early = (
        run_of(ledger, job, role).id
        for job, role in ((old, RunRole.PROXY), (old, RunRole.FULL), (goes_on, RunRole.PROXY))
    )
    clock.advance(MONTH)
    young = ended(ledger)
    fresh = run_of(ledger, young).id
    asked = [old.id, goes_on.id, young.id, "job_forgotten"]
    assert ledger.over(asked, KEEP) == {old.id, "job_forgotten"}
    assert ledger.spent_runs([proxy, full, early, fresh, "run_none"], KEEP) == {proxy}
    assert ledger.over([], KEEP) == ledger.spent_runs([], KEEP) == set()
