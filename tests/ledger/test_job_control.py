"""Priorities, waits after failures, pauses, and the events that tell of them."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from mixlab.errors import Conflict, LeaseLost, UnknownJob
from mixlab.ledger import Heartbeat, Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from tests.ledger.clock import FakeClock
from tests.ledger.making import LEASE, claimed, state, submit, told

FULL_DISK = {"type": "internal-error", "title": "t", "detail": "No space left on device"}


class TestOrder:
    def test_the_most_urgent_then_the_oldest(self, ledger: Ledger) -> None:
        plain, second, urgent, late = (submit(ledger, priority=p) for p in (0, 0, 7, -3))
        ledger.submit(JobKind.FIT_MIXTURE, {}, queue=Queue.CPU, priority=100)
        taken = []
        while (due := ledger.due(Queue.GPU)) is not None:
            claimed(ledger, ledger.job(due))
            taken.append(due)
        assert taken == [urgent.id, plain.id, second.id, late.id]

    def test_children_are_as_urgent_as_their_parent(self, ledger: Ledger) -> None:
        parent = claimed(ledger, submit(ledger, priority=7))
        submit(ledger, priority=5)
        child = submit(ledger, parent_id=parent.id, key="a", priority=-1)
        assert child.priority == 7
        assert ledger.due(Queue.GPU) == child.id

    def test_what_was_taken_up_before_goes_on_first(self, ledger: Ledger) -> None:
        first, _ = claimed(ledger), submit(ledger)
        ledger.give_back(first.id, 1, "its worker was stopped", None)
        assert ledger.due(Queue.GPU) == first.id


class Failing:
    """A job that fails again and again, with the waits in between."""

    def __init__(self, ledger: Ledger, clock: FakeClock, error: Any = FULL_DISK) -> None:
        self.ledger, self.clock, self.error = ledger, clock, error
        self.job = submit(ledger)

    def once_more(self, most: int) -> float | None:
        """The wait after one more failure; None where it is not tried again."""
        held = claimed(self.ledger, self.job)
        self.ledger.give_back(held.id, held.attempt, "disk full\nmore", most, self.error)
        now = self.ledger.job(held.id)
        if now.state.terminal:
            return None
        if now.not_before is None:
            return 0.0
        assert self.ledger.due(Queue.GPU) is None
        assert self.ledger.unsent() == []
        wait = (now.not_before - self.clock.now).total_seconds()
        self.clock.advance(wait)
        assert self.ledger.due(Queue.GPU) == held.id
        assert [late.id for late in self.ledger.unsent()] == [held.id]
        return wait


class TestBackOff:
    def test_what_may_pass_is_tried_ever_later_and_at_the_cap_fails_as_it_did(
        self, ledger: Ledger, clock: FakeClock
    ) -> None:
        failing = Failing(ledger, clock)
        assert [failing.once_more(6) for _ in range(6)] == [5, 10, 20, 40, 80, None]
        now = ledger.job(failing.job.id)
        assert (now.state, now.failures, now.error) == (JobState.FAILED, 6, FULL_DISK)

    def test_no_wait_is_longer_than_five_minutes(self, ledger: Ledger, clock: FakeClock) -> None:
        failing = Failing(ledger, clock)
        assert [failing.once_more(99) for _ in range(9)][5:] == [160, 300, 300, 300]

    def test_the_first_crash_costs_no_wait(self, ledger: Ledger, clock: FakeClock) -> None:
        failing = Failing(ledger, clock, error=None)
        assert [failing.once_more(4) for _ in range(4)] == [0, 5, 10, None]
        error = ledger.job(failing.job.id).error
        assert error is not None
        assert error["type"] == "worker-crashed"

    def test_crashes_that_lie_far_apart_do_not_add_up(
        self, ledger: Ledger, clock: FakeClock
    ) -> None:
        job = submit(ledger)
        for _ in range(5):
            held = claimed(ledger, job)
            clock.advance(2 * 3600)
            ledger.give_back(job.id, held.attempt, "crashed", 3)
        assert (ledger.job(job.id).state, ledger.job(job.id).failures) == (JobState.QUEUED, 1)
        for _ in range(2):
            held = claimed(ledger, job)
            ledger.give_back(job.id, held.attempt, "crashed", 3)
            clock.advance(60)
        assert ledger.job(job.id).state is JobState.FAILED

    def test_a_claim_ends_the_wait_and_the_stage_says_why_it_waited(
        self, ledger: Ledger, clock: FakeClock
    ) -> None:
        failing = Failing(ledger, clock)
        failing.once_more(6)
        assert ledger.job(failing.job.id).stage == "queued again: disk full"
        assert claimed(ledger, failing.job).not_before is None

    def test_a_job_that_waits_can_be_cancelled_and_paused(self, ledger: Ledger) -> None:
        first, second = claimed(ledger), claimed(ledger)
        for job in (first, second):
            ledger.give_back(job.id, 1, "disk full", 6, FULL_DISK)
        assert ledger.request_cancel(first.id).state is JobState.CANCELLED
        assert ledger.request_pause(second.id).state is JobState.PAUSED
        assert ledger.resume(second.id).not_before is not None


class TestPausing:
    def test_a_queued_job_is_held_at_once(self, ledger: Ledger) -> None:
        job = submit(ledger)
        paused = ledger.request_pause(job.id)
        assert (paused.state, paused.pause_requested_at is None) == (JobState.PAUSED, False)
        assert ledger.request_pause(job.id) == paused
        assert ledger.due(Queue.GPU) is None
        assert ledger.unsent() == []
        assert ledger.claim(job.id, "w", LEASE) is None

    def test_it_goes_on_when_resumed(self, ledger: Ledger) -> None:
        job = submit(ledger)
        ledger.mark_sent(job.id)
        ledger.request_pause(job.id)
        back = ledger.resume(job.id)
        assert (back.state, back.pause_requested_at) == (JobState.QUEUED, None)
        assert [late.id for late in ledger.unsent()] == [job.id]
        assert ledger.resume(job.id) == back

    def test_a_running_job_stops_first(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        assert ledger.request_pause(job.id).state is JobState.RUNNING
        assert ledger.heartbeat(job.id, 1, LEASE) is Heartbeat.PAUSE
        ledger.give_back(job.id, 1, "A pause was asked for.", None)
        now = ledger.job(job.id)
        assert (now.state, now.failures, now.lease_until) == (JobState.PAUSED, 0, None)
        assert ledger.resume(job.id).state is JobState.QUEUED
        assert claimed(ledger, job).attempt == 2

    def test_one_that_ends_before_it_stops_has_ended(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        ledger.request_pause(job.id)
        ledger.succeed(job.id, 1, {})
        assert state(ledger, job) is JobState.SUCCEEDED

    @pytest.mark.parametrize("crashed", [True, False])
    def test_one_whose_worker_dies_meanwhile_is_held(
        self, ledger: Ledger, clock: FakeClock, crashed: bool
    ) -> None:
        job = claimed(ledger)
        ledger.request_pause(job.id)
        if crashed:
            ledger.give_back(job.id, 1, "signal", 3)
        else:
            clock.advance(LEASE + 1)
            ledger.take_back_expired(3)
        assert (state(ledger, job), ledger.job(job.id).failures) == (JobState.PAUSED, 1)

    def test_resumed_before_it_stopped_it_is_queued_again(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        ledger.request_pause(job.id)
        assert ledger.resume(job.id).state is JobState.RUNNING
        assert ledger.heartbeat(job.id, 1, LEASE) is Heartbeat.CONTINUE
        ledger.request_pause(job.id)
        ledger.heartbeat(job.id, 1, LEASE)  # its worker stops it
        ledger.resume(job.id)
        ledger.give_back(job.id, 1, "A pause was asked for.", None)
        assert state(ledger, job) is JobState.QUEUED

    def test_a_paused_job_can_be_cancelled(self, ledger: Ledger) -> None:
        queued, running = submit(ledger), claimed(ledger)
        for job in (queued, running):
            ledger.request_pause(job.id)
        assert ledger.request_cancel(queued.id).state is JobState.CANCELLED
        ledger.request_cancel(running.id)
        assert ledger.heartbeat(running.id, 1, LEASE) is Heartbeat.CANCEL
        ledger.give_back(running.id, 1, "A pause was asked for.", None)
        assert state(ledger, running) is JobState.CANCELLED

    @pytest.mark.parametrize("ask", [Ledger.request_pause, Ledger.resume])
    def test_an_ended_job_can_be_neither(
        self, ledger: Ledger, ask: Callable[[Ledger, str], Job]
    ) -> None:
        job = ledger.request_cancel(submit(ledger).id)
        with pytest.raises(Conflict, match="cancelled"):
            ask(ledger, job.id)
        assert ledger.job(job.id) == job
        with pytest.raises(UnknownJob):
            ask(ledger, "job_none")


class TestFamilies:
    @pytest.fixture
    def family(self, ledger: Ledger) -> tuple[Job, Job, Job]:
        """A waiting parent with a running and a queued child."""
        parent = claimed(ledger)
        running, queued = (submit(ledger, parent_id=parent.id, key=key) for key in "ab")
        claimed(ledger, running)
        ledger.wait_for_children(parent.id, 1)
        return parent, running, queued

    def test_a_waiting_parent_and_its_children(
        self, ledger: Ledger, family: tuple[Job, Job, Job]
    ) -> None:
        parent, running, queued = family
        assert ledger.request_pause(parent.id).state is JobState.WAITING
        assert state(ledger, queued) is JobState.PAUSED
        assert ledger.heartbeat(running.id, 1, LEASE) is Heartbeat.PAUSE
        ledger.give_back(running.id, 1, "A pause was asked for.", None)
        assert [state(ledger, job) for job in family] == ["waiting", "paused", "paused"]

        ledger.resume(parent.id)
        assert [state(ledger, job) for job in family] == ["waiting", "queued", "queued"]
        for job, attempt in ((running, 2), (queued, 1)):
            claimed(ledger, job)
            ledger.succeed(job.id, attempt, {})
        assert state(ledger, parent) is JobState.QUEUED

    def test_a_parent_whose_children_ended_meanwhile(
        self, ledger: Ledger, family: tuple[Job, Job, Job]
    ) -> None:
        parent, running, queued = family
        ledger.request_pause(parent.id)
        ledger.succeed(running.id, 1, {})
        ledger.request_cancel(queued.id)
        assert state(ledger, parent) is JobState.PAUSED
        assert ledger.unsent() == []
        assert ledger.resume(parent.id).state is JobState.QUEUED

    def test_a_running_parent_that_parks_after_the_pause(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        child = submit(ledger, parent_id=parent.id, key="a")
        ledger.request_pause(parent.id)
        assert state(ledger, child) is JobState.PAUSED
        ledger.wait_for_children(parent.id, 1)
        assert state(ledger, parent) is JobState.WAITING
        ledger.resume(parent.id)
        claimed(ledger, child)
        ledger.succeed(child.id, 1, {})
        assert state(ledger, parent) is JobState.QUEUED

    def test_a_child_that_is_submitted_under_a_pause(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        ledger.request_pause(parent.id)
        child = submit(ledger, parent_id=parent.id, key="a", parent_attempt=1)
        assert (child.state, child.pause_requested_at is None) == (JobState.PAUSED, False)
        ledger.wait_for_children(parent.id, 1)
        ledger.resume(parent.id)
        assert state(ledger, child) is JobState.QUEUED

    def test_one_child_alone(self, ledger: Ledger, family: tuple[Job, Job, Job]) -> None:
        parent, running, queued = family
        ledger.request_pause(queued.id)
        ledger.succeed(running.id, 1, {})
        assert [state(ledger, job) for job in (parent, queued)] == ["waiting", "paused"]
        assert ledger.resume(parent.id).state is JobState.WAITING
        assert state(ledger, queued) is JobState.QUEUED

    def test_a_paused_parent_that_is_cancelled_takes_all_along(
        self, ledger: Ledger, family: tuple[Job, Job, Job]
    ) -> None:
        parent, running, queued = family
        ledger.request_pause(parent.id)
        assert ledger.request_cancel(parent.id).state is JobState.CANCELLED
        assert state(ledger, queued) is JobState.CANCELLED
        assert ledger.heartbeat(running.id, 1, LEASE) is Heartbeat.CANCEL


class TestEvents:
    def test_a_jobs_whole_life(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        for stage, fraction in (("tokenise", 0.1), ("tokenise", 0.2), ("entropy", 0.9)):
            ledger.progress(job.id, 1, stage=stage, fraction=fraction)
        ledger.request_pause(job.id)
        ledger.give_back(job.id, 1, "A pause was asked for.", None)
        ledger.resume(job.id)
        claimed(ledger, job)
        ledger.give_back(job.id, 2, "signal SIGKILL", 3)
        claimed(ledger, job)
        ledger.request_cancel(job.id)
        ledger.cancelled(job.id, 3)
        assert told(ledger, job) == [
            "submitted", "started", "stage", "stage", "pause_requested", "paused", "resumed",
            "queued", "started", "queued", "started", "cancel_requested", "cancelled",
        ]  # fmt: skip
        events = ledger.events(job.id)
        numbers = [event.seq for event in events]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == ledger.job(job.id).version
        assert events[1].data == {"attempt": 1, "worker": "w:1"}
        assert [e.data["stage"] for e in events if e.event == "stage"] == ["tokenise", "entropy"]
        assert events[9].data == {"reason": "signal SIGKILL"}

    def test_outcomes_stand_in_their_events(self, ledger: Ledger) -> None:
        done, broken = claimed(ledger), claimed(ledger)
        ledger.succeed(done.id, 1, {"href": "/mixtures/mix_1"})
        ledger.fail(broken.id, 1, {"type": "diverged"})
        assert ledger.events(done.id)[-1].data == {"result": {"href": "/mixtures/mix_1"}}
        assert ledger.events(broken.id)[-1].data == {"error": {"type": "diverged"}}

    def test_pages_by_number(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        every = ledger.events(job.id)
        assert ledger.events(job.id, limit=1) == every[:1]
        assert ledger.events(job.id, after=every[0].seq) == every[1:]
        assert ledger.events(job.id, after=every[-1].seq) == []
        with pytest.raises(UnknownJob):
            ledger.events("job_none")

    def test_what_changes_nothing_is_no_event(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        ledger.heartbeat(job.id, 1, LEASE)
        ledger.mark_sent(job.id)
        ledger.request_cancel(job.id)
        before = told(ledger, job)
        ledger.request_cancel(job.id)
        with pytest.raises(LeaseLost):
            ledger.succeed(job.id, 7, {})
        assert told(ledger, job) == before

    def test_a_version_changes_with_the_job_and_its_children(self, ledger: Ledger) -> None:
        parent, other = claimed(ledger), submit(ledger)
        seen = [ledger.versions([parent.id, other.id, "job_none"])]
        assert set(seen[0]) == {parent.id, other.id}

        def changed() -> bool:
            seen.append(ledger.versions([parent.id, other.id]))
            assert seen[-1][other.id] == seen[0][other.id]
            return seen[-1][parent.id] not in {old[parent.id] for old in seen[:-1]}

        ledger.heartbeat(parent.id, 1, LEASE)
        assert ledger.versions([parent.id])[parent.id] == seen[0][parent.id]
        child = submit(ledger, parent_id=parent.id, key="a")
        assert changed()
        claimed(ledger, child)
        assert changed()
        ledger.progress(child.id, 1, stage="train", fraction=0.5)
        assert changed()
        ledger.progress(parent.id, 1, stage="proxies", fraction=0.5)
        assert changed()
        ledger.succeed(child.id, 1, {})
        assert changed()


@pytest.fixture
def forgetful(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Each of its writes breaks the connection once: after the commit, before the answer."""
    monkeypatch.setattr(ledger._db, "_patience_seconds", 5.0)
    write = ledger._db.write
    lost: list[Callable[[Any], Any]] = []

    def write_and_lose(work: Callable[[Any], Any]) -> Any:
        done = write(work)
        if not any(work is one for one in lost):
            lost.append(work)
            raise OperationalError("COMMIT", {}, ConnectionResetError())
        return done

    monkeypatch.setattr(ledger._db, "write", write_and_lose)
    return ledger


class TestLostAnswers:
    """A commit whose answer was lost with its connection is made again, and nothing is doubled."""

    def test_a_whole_attempt(self, forgetful: Ledger) -> None:
        job = submit(forgetful, key="k")
        forgetful.mark_sent(job.id, 0)
        held = claimed(forgetful, job)
        forgetful.progress(job.id, 1, stage="train", fraction=0.5)
        forgetful.request_pause(job.id)
        forgetful.resume(job.id)
        forgetful.succeed(job.id, 1, {"href": "/x"})
        assert (held.attempt, forgetful.job(job.id).failures) == (1, 0)
        assert told(forgetful, job) == [
            "submitted", "started", "stage", "pause_requested", "resumed", "succeeded",
        ]  # fmt: skip

    def test_another_worker_had_the_job_in_between(self, forgetful: Ledger) -> None:
        job = submit(forgetful, key="k")
        claimed(forgetful, job)
        assert forgetful.claim(job.id, "w:2", LEASE) is None

    def test_a_job_that_is_given_back_or_parked(self, forgetful: Ledger) -> None:
        first, second = (claimed(forgetful, submit(forgetful, key=key)) for key in "ab")
        child = submit(forgetful, parent_id=second.id, key="c")
        with pytest.raises(LeaseLost):  # which says that it is done
            forgetful.give_back(first.id, 1, "signal", 3)
        with pytest.raises(LeaseLost):
            forgetful.wait_for_children(second.id, 1)
        assert (state(forgetful, first), forgetful.job(first.id).failures) == ("queued", 1)
        assert [state(forgetful, job) for job in (second, child)] == ["waiting", "queued"]

    def test_a_lease_that_is_taken_back(self, forgetful: Ledger, clock: FakeClock) -> None:
        job = claimed(forgetful, submit(forgetful, key="k"))
        clock.advance(LEASE + 1)
        forgetful.take_back_expired(3)
        assert (state(forgetful, job), forgetful.job(job.id).failures) == ("queued", 1)

    def test_the_same_end_twice(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        ledger.succeed(job.id, 1, {"href": "/x"})
        before = ledger.job(job.id), ledger.events(job.id)
        ledger.succeed(job.id, 1, {"href": "/x"})
        assert (ledger.job(job.id), ledger.events(job.id)) == before
        with pytest.raises(LeaseLost):
            ledger.fail(job.id, 1, {"type": "x"})
        with pytest.raises(LeaseLost):
            ledger.succeed(job.id, 2, {})
        assert (ledger.job(job.id), ledger.events(job.id)) == before
