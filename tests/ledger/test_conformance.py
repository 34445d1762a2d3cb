"""What every ledger must hold to, whichever database is behind it."""

import math
from datetime import timedelta
from typing import Any

import pytest

from mixlab.errors import (
    InvalidLoss,
    LeaseLost,
    Unknown,
    UnknownCorpus,
    UnknownJob,
    UnknownMixture,
    UnknownRun,
)
from mixlab.ledger import Heartbeat, Ledger, attempts, jobs
from mixlab.ledger.records import JobKind, JobState, Queue, RunRole
from tests.ledger.making import LEASE, claimed, state, submit


class TestCorpora:
    def test_comes_back_as_it_went_in(self, ledger: Ledger) -> None:
        spec = {"domains": {"z": {"paths": ["/z"]}, "a": {"paths": ["/ä"]}}}
        corpus = ledger.add_corpus("mine", spec)
        assert ledger.corpus(corpus.id) == corpus
        assert corpus.id.startswith("corpus_")
        assert list(ledger.corpus(corpus.id).spec["domains"]) == ["z", "a"]  # in the order given
        assert corpus.tokens is None
        assert corpus.created_at.tzinfo is not None

    def test_keeps_what_was_measured(self, ledger: Ledger) -> None:
        corpus = ledger.add_corpus("mine", {})
        ledger.record_tokens(corpus.id, {"a": {"train_tokens": 2**40}})
        ledger.record_entropy(corpus.id, {"a": {"shannon": 1.5}})
        assert ledger.corpus(corpus.id).tokens == {"a": {"train_tokens": 2**40}}
        assert ledger.corpus(corpus.id).entropy == {"a": {"shannon": 1.5}}

    def test_pages_newest_first(self, ledger: Ledger) -> None:
        ids = [ledger.add_corpus(str(n), {}).id for n in range(5)]
        first = ledger.corpora(limit=2)
        rest = ledger.corpora(limit=10, after=first[-1].id)
        assert [corpus.id for corpus in first + rest] == ids[::-1]

    def test_unknown_ids(self, ledger: Ledger) -> None:
        with pytest.raises(UnknownCorpus, match="corpus_none"):
            ledger.corpus("corpus_none")
        with pytest.raises(UnknownCorpus):
            ledger.record_tokens("corpus_none", {})
        with pytest.raises(UnknownJob):
            ledger.job("job_none")
        with pytest.raises(UnknownJob):
            ledger.request_cancel("job_none")
        with pytest.raises(UnknownJob):
            submit(ledger, parent_id="job_none", key="a")
        with pytest.raises(UnknownMixture):
            ledger.mixture("mix_none")
        with pytest.raises(Unknown):
            ledger.run("run_none")
        assert ledger.run_of_job("job_none") is None
        assert ledger.claim("job_none", "w", LEASE) is None


class TestSubmitting:
    def test_a_job_begins_queued_and_unsent(self, ledger: Ledger) -> None:
        job = submit(ledger)
        assert (job.state, job.attempt, job.failures, job.fraction) == (JobState.QUEUED, 0, 0, 0.0)
        assert ledger.job(job.id) == job
        assert [waits.id for waits in ledger.unsent()] == [job.id]
        ledger.mark_sent(job.id)
        assert ledger.unsent() == []

    def test_the_same_key_gives_the_first_job(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        first = submit(ledger, parent_id=parent.id, key="a")
        assert submit(ledger, parent_id=parent.id, key="a") == first
        assert submit(ledger, parent_id=parent.id, key="b").id != first.id
        assert [child.key for child in ledger.children(parent.id)] == ["a", "b"]

    def test_keys_of_parentless_jobs_are_a_space_of_their_own(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        child = submit(ledger, parent_id=parent.id, key="a")
        first = submit(ledger, key="a")
        assert first.id != child.id
        assert submit(ledger, key="a") == first
        assert submit(ledger).id != submit(ledger).id

    def test_an_ended_parent_takes_no_children(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        ledger.succeed(parent.id, 1, {})
        with pytest.raises(LeaseLost):
            submit(ledger, parent_id=parent.id, key="a")

    def test_nor_does_a_parent_from_an_earlier_attempt(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        ledger.give_back(parent.id, 1, "stopped", None)
        claimed(ledger, parent)
        with pytest.raises(LeaseLost):
            submit(ledger, parent_id=parent.id, key="a", parent_attempt=1)
        submit(ledger, parent_id=parent.id, key="a", parent_attempt=2)

    def test_lists_by_state_and_kind_in_pages(self, ledger: Ledger) -> None:
        jobs = [submit(ledger) for _ in range(4)]
        other = ledger.submit(JobKind.FIT_MIXTURE, {}, queue=Queue.CPU)
        claimed(ledger, jobs[1])
        assert [job.id for job in ledger.jobs(kind=JobKind.FIT_MIXTURE)] == [other.id]
        assert [job.id for job in ledger.jobs(state=JobState.RUNNING)] == [jobs[1].id]
        page = ledger.jobs(limit=2)
        assert [job.id for job in page] == [other.id, jobs[3].id]
        assert len(ledger.jobs(after=page[-1].id)) == 3

    def test_not_a_number_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(Exception, match="JSON compliant"):
            ledger.submit(JobKind.TRAIN, {"x": math.nan}, queue=Queue.CPU)


class TestHolding:
    def test_one_claim_wins(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        assert (job.state, job.attempt, job.worker) == (JobState.RUNNING, 1, "w:1")
        assert job.started_at is not None
        assert ledger.claim(job.id, "w:2", LEASE) is None

    def test_progress_and_heartbeat(self, ledger: Ledger, clock: Any) -> None:
        job = claimed(ledger)
        ledger.progress(job.id, 1, stage="train", fraction=1.7, eta_seconds=3.0)
        now = ledger.job(job.id)
        assert (now.stage, now.fraction, now.eta_seconds) == ("train", 1.0, 3.0)
        assert now.version > job.version
        clock.advance(20)
        assert ledger.heartbeat(job.id, 1, LEASE) is Heartbeat.CONTINUE
        clock.advance(20)
        assert ledger.take_back_expired(3) == []
        assert ledger.job(job.id).version == now.version  # nothing that a reader sees has changed

    def test_success_and_failure(self, ledger: Ledger) -> None:
        done, broken = claimed(ledger), claimed(ledger)
        ledger.succeed(done.id, 1, {"href": "/mixtures/mix_1"})
        ledger.fail(broken.id, 1, {"type": "invalid-loss", "title": "t", "detail": "d"})
        now = ledger.job(done.id)
        assert (now.state, now.fraction, now.result) == (
            JobState.SUCCEEDED, 1.0, {"href": "/mixtures/mix_1"},
        )  # fmt: skip
        assert now.finished_at is not None
        assert now.lease_until is None
        error = ledger.job(broken.id).error
        assert error is not None
        assert error["type"] == "invalid-loss"

    @pytest.mark.parametrize(
        "write",
        [
            lambda ledger, job: ledger.progress(job, 1, stage="s", fraction=0.5),
            lambda ledger, job: ledger.succeed(job, 1, {}),
            lambda ledger, job: ledger.fail(job, 1, {}),
            lambda ledger, job: ledger.cancelled(job, 1),
            lambda ledger, job: ledger.give_back(job, 1, "r", 3),
            lambda ledger, job: ledger.wait_for_children(job, 1),
        ],
    )
    def test_an_attempt_that_lost_its_lease_writes_nothing(
        self, ledger: Ledger, clock: Any, write: Any
    ) -> None:
        job = claimed(ledger)
        clock.advance(LEASE + 1)
        assert [taken.id for taken in ledger.take_back_expired(3)] == [job.id]
        for again in (False, True):  # while it is queued, and while the next attempt has it
            if again:
                assert claimed(ledger, job).attempt == 2
            before = ledger.job(job.id)
            with pytest.raises(LeaseLost):
                write(ledger, job.id)
            assert ledger.heartbeat(job.id, 1, LEASE) is Heartbeat.LOST
            assert ledger.job(job.id) == before

    def test_an_expired_lease_is_taken_back_once(self, ledger: Ledger, clock: Any) -> None:
        job = claimed(ledger)
        ledger.mark_sent(job.id)
        clock.advance(LEASE + 1)
        (taken,) = ledger.take_back_expired(3)
        assert (taken.state, taken.failures, taken.worker) == (JobState.QUEUED, 1, None)
        assert ledger.take_back_expired(3) == []
        assert [waits.id for waits in ledger.unsent()] == [taken.id]

    def test_a_lease_renewed_since_the_look_is_not_taken_back(
        self, ledger: Ledger, clock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker's heartbeat may come between the sweep's look and its write."""
        job, look = claimed(ledger), attempts.expired

        def look_then_beat(db: Any, now: Any) -> list[str]:
            found = look(db, now)
            assert ledger.heartbeat(job.id, 1, LEASE) is Heartbeat.CONTINUE
            return found

        clock.advance(LEASE + 1)
        monkeypatch.setattr(attempts, "expired", look_then_beat)
        assert ledger.take_back_expired(3) == []
        assert (state(ledger, job), ledger.job(job.id).attempt) == (JobState.RUNNING, 1)

    def test_it_began_with_its_first_attempt(self, ledger: Ledger, clock: Any) -> None:
        began = claimed(ledger, job := submit(ledger)).started_at
        clock.advance(60)
        ledger.give_back(job.id, 1, "Its worker was stopped.", None)
        assert claimed(ledger, job).started_at == began == clock() - timedelta(seconds=60)

    def test_crashes_are_counted_up_to_the_cap(self, ledger: Ledger) -> None:
        job = submit(ledger)
        for attempt in (1, 2, 3):
            claimed(ledger, job)
            ledger.give_back(job.id, attempt, "signal SIGKILL\nlast words", 3)
        now = ledger.job(job.id)
        assert (now.state, now.failures) == (JobState.FAILED, 3)
        assert now.error is not None
        assert now.error["type"] == "worker-crashed"
        assert "last words" in now.error["detail"]

    def test_a_stopped_worker_is_not_the_jobs_fault(self, ledger: Ledger) -> None:
        job = submit(ledger)
        for attempt in range(1, 6):
            claimed(ledger, job)
            ledger.give_back(job.id, attempt, "Its worker was stopped.", None)
        assert (state(ledger, job), ledger.job(job.id).failures) == (JobState.QUEUED, 0)

    def test_what_was_sent_and_not_claimed_is_sent_again(self, ledger: Ledger, clock: Any) -> None:
        job = submit(ledger)
        ledger.mark_sent(job.id, job.attempt)
        clock.advance(29)
        assert ledger.unsent(30) == []
        clock.advance(2)
        assert [late.id for late in ledger.unsent(30)] == [job.id]

    def test_many_are_sent_a_thousand_at_a_time(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "UNSENT_AT_ONCE", 2)
        made = [submit(ledger).id for _ in range(3)]
        assert [job.id for job in ledger.unsent()] == made[:2]
        ledger.mark_sent(made[0])
        assert [job.id for job in ledger.unsent()] == made[1:]

    def test_of_one_queue_none_is_hidden_by_many_of_another(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "UNSENT_AT_ONCE", 2)
        for _ in range(3):
            submit(ledger)
        other = ledger.submit(JobKind.MEASURE_CORPUS, {}, queue=Queue.CPU)
        assert [job.id for job in ledger.unsent(None, Queue.CPU)] == [other.id]

    def test_a_late_mark_does_not_hide_a_job_queued_again(self, ledger: Ledger) -> None:
        job = submit(ledger)
        claimed(ledger, job)
        ledger.give_back(job.id, 1, "crash", 3)
        ledger.mark_sent(job.id, job.attempt)  # by who sent attempt 0 and was slow to say so
        assert [late.id for late in ledger.unsent()] == [job.id]


class TestCancelling:
    def test_queued_at_once(self, ledger: Ledger) -> None:
        job = ledger.request_cancel(submit(ledger).id)
        assert job.state is JobState.CANCELLED
        assert ledger.claim(job.id, "w", LEASE) is None
        assert ledger.request_cancel(job.id) == job

    def test_running_is_asked(self, ledger: Ledger) -> None:
        job = claimed(ledger)
        asked = ledger.request_cancel(job.id)
        assert asked.state is JobState.RUNNING
        assert asked.cancel_requested_at is not None
        assert ledger.request_cancel(job.id) == asked
        assert ledger.heartbeat(job.id, 1, LEASE) is Heartbeat.CANCEL
        ledger.cancelled(job.id, 1)
        assert state(ledger, job) is JobState.CANCELLED

    def test_a_cancelled_job_that_crashes_is_not_tried_again(
        self, ledger: Ledger, clock: Any
    ) -> None:
        crashed, silent, parking = claimed(ledger), claimed(ledger), claimed(ledger)
        for job in (crashed, silent, parking):
            ledger.request_cancel(job.id)
        ledger.give_back(crashed.id, 1, "signal", 3)
        ledger.wait_for_children(parking.id, 1)
        clock.advance(LEASE + 1)
        ledger.take_back_expired(3)
        for job in (crashed, silent, parking):
            assert state(ledger, job) is JobState.CANCELLED

    def test_a_waiting_parent_takes_its_children_along(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        queued, running, waiting, done = (
            submit(ledger, parent_id=parent.id, key=key) for key in "abcd"
        )
        claimed(ledger, running)
        claimed(ledger, waiting)
        grandchild = submit(ledger, parent_id=waiting.id, key="g")
        ledger.wait_for_children(waiting.id, 1)
        claimed(ledger, done)
        ledger.succeed(done.id, 1, {})
        ledger.wait_for_children(parent.id, 1)
        assert ledger.request_cancel(parent.id).state is JobState.CANCELLED
        for job in (queued, waiting, grandchild):
            assert state(ledger, job) is JobState.CANCELLED
        assert state(ledger, done) is JobState.SUCCEEDED
        assert ledger.heartbeat(running.id, 1, LEASE) is Heartbeat.CANCEL
        ledger.cancelled(running.id, 1)
        assert state(ledger, parent) is JobState.CANCELLED

    def test_a_parent_that_fails_takes_its_children_along(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        child = submit(ledger, parent_id=parent.id, key="a")
        ledger.fail(parent.id, 1, {"type": "x"})
        assert state(ledger, child) is JobState.CANCELLED


class TestFamilies:
    def test_the_last_child_wakes_the_parent(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        first, second, third = (submit(ledger, parent_id=parent.id, key=key) for key in "abc")
        ledger.mark_sent(parent.id)
        ledger.wait_for_children(parent.id, 1)
        assert state(ledger, parent) is JobState.WAITING
        claimed(ledger, first)
        ledger.succeed(first.id, 1, {})
        claimed(ledger, second)
        ledger.fail(second.id, 1, {"type": "diverged"})
        assert state(ledger, parent) is JobState.WAITING
        ledger.request_cancel(third.id)
        assert state(ledger, parent) is JobState.QUEUED
        assert [job.id for job in ledger.unsent()] == [parent.id]
        assert claimed(ledger, parent).attempt == 2

    def test_children_that_ended_before_the_wait(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        child = submit(ledger, parent_id=parent.id, key="a")
        claimed(ledger, child)
        ledger.succeed(child.id, 1, {})
        assert state(ledger, parent) is JobState.RUNNING
        ledger.wait_for_children(parent.id, 1)
        assert state(ledger, parent) is JobState.QUEUED

    def test_a_child_that_crashes_keeps_the_parent_waiting(self, ledger: Ledger) -> None:
        parent = claimed(ledger)
        child = submit(ledger, parent_id=parent.id, key="a")
        ledger.wait_for_children(parent.id, 1)
        for attempt in (1, 2, 3):
            assert state(ledger, parent) is JobState.WAITING
            claimed(ledger, child)
            ledger.give_back(child.id, attempt, "signal", 3)
        assert state(ledger, parent) is JobState.QUEUED


class TestRuns:
    def test_a_run_with_its_observations(self, ledger: Ledger) -> None:
        corpus, job = ledger.add_corpus("c", {}), submit(ledger)
        make = (job.id, corpus.id, RunRole.PROXY, {"a": 0.25, "b": 0.75}, {"name": "tiny"}, 2**40)
        run = ledger.add_run(*make, "natural")
        assert ledger.add_run(*make, "natural") == run  # the job was done again
        for step, loss in ((20, 4.0), (10, 5.0), (20, 4.1)):
            ledger.record_observation(
                run.id, {"step": step, "tokens": step * 4096, "losses_nats": {"a": loss}}
            )
        ledger.finish_run(run.id, [{"from_step": 0, "to_step": 20, "tokens": {"a": 1}}], 1.5)
        found = ledger.run(run.id)
        assert [seen["step"] for seen in found.observations] == [10, 20]
        assert found.observations[1]["losses_nats"] == {"a": 4.1}
        assert found.consumed[0]["tokens"] == {"a": 1}
        assert (found.seconds, found.seed, found.label) == (1.5, 2**40, "natural")
        assert ledger.run_of_job(job.id) == found

    def test_a_job_of_several_runs_finds_each_of_them_again(self, ledger: Ledger) -> None:
        corpus, job = ledger.add_corpus("c", {}), submit(ledger)
        place = (job.id, corpus.id, RunRole.PROXY, {"a": 1.0}, {"name": "tiny"})
        runs = [(0, "natural"), (1, "natural"), (0, "uniform")]
        made = [ledger.add_run(*place, seed, label) for seed, label in runs]
        assert len({run.id for run in made}) == 3
        assert [ledger.add_run(*place, seed, label) for seed, label in runs] == made
        assert ledger.runs_of_job(job.id) == made
        ledger.finish_run(made[0].id, (), 2.0)
        ledger.finish_run(made[1].id, (), None, {"type": "diverged"})
        assert [run.finished for run in ledger.runs_of_job(job.id)] == [True, False, False]
        # Of an attempt that was halted, and goes on when another has done the work.
        ledger.finish_run(made[0].id, (), None, {"type": "diverged"})
        assert (ledger.run(made[0].id).seconds, ledger.run(made[0].id).error) == (2.0, None)
        with pytest.raises(UnknownRun):
            ledger.finish_run("run_none", (), None, {"type": "diverged"})

    @pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
    def test_a_loss_that_is_none_is_refused(self, ledger: Ledger, loss: float) -> None:
        run = ledger.add_run(
            submit(ledger).id, ledger.add_corpus("c", {}).id, RunRole.FULL, {"a": 1.0}, {}, 0, "x"
        )
        with pytest.raises(InvalidLoss, match="step 7"):
            ledger.record_observation(run.id, {"step": 7, "tokens": 1, "losses_nats": {"a": loss}})
        assert ledger.run(run.id).observations == ()

    def test_are_found_by_corpus_role_recipe_and_parent(self, ledger: Ledger) -> None:
        corpora = [ledger.add_corpus(name, {}).id for name in "ab"]
        parent = claimed(ledger)
        made = {}
        for corpus in corpora:
            for role in RunRole:
                job = submit(ledger, parent_id=parent.id if role is RunRole.PROXY else None)
                recipe = {"name": "tiny" if role is RunRole.PROXY else "small"}
                run = ledger.add_run(job.id, corpus, role, {"x": 1.0}, recipe, 0, "n")
                made[corpus, role] = run.id
        every = list(made.values())
        assert [run.id for run in ledger.runs()] == every
        assert [run.id for run in ledger.runs(corpora[1])] == every[2:]
        assert [run.id for run in ledger.runs(role=RunRole.FULL)] == every[1::2]
        assert [run.id for run in ledger.runs(recipe="tiny")] == every[::2]
        assert [run.id for run in ledger.runs(parent_job_id=parent.id)] == every[::2]

    def test_a_mixture_is_kept_once_a_job(self, ledger: Ledger) -> None:
        job = submit(ledger)
        kept = ledger.add_mixture(None, job.id, None, {"a": 1.0}, {"law": "bimix"}, {"x": [1]})
        assert ledger.add_mixture(None, job.id, None, {"a": 1.0}, None, {}) == kept
        again = ledger.add_mixture(None, None, kept.id, {"a": 1.0}, None, {})
        assert ledger.mixture(again.id).parent_id == kept.id
        assert ledger.mixture(kept.id) == kept
        assert ledger.mixture(kept.id).fit == {"law": "bimix"}
