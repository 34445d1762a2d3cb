"""One supervisor in this process, a real runner, a real ledger; no broker."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mixlab.ledger.records import Job, JobKind, JobState, Queue
from mixlab.recipes import tinyllama_1b
from tests.workers.conftest import QUICK, Service, open_ledger, processes, until
from workers.gpu_leases import GpuLease
from workers.jobs.context import JobContext
from workers.runner import perform
from workers.settings import WorkerSettings
from workers.supervisor import GPU_STAGE, NICENESS, supervise

pytestmark = pytest.mark.service

GPUS = "GPU-a,GPU-b"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MIXLAB_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ledger = open_ledger(tmp_path)
    yield Service(tmp_path, ledger)
    ledger.close()


def do(service: Service, job: Job, stopping: Callable[[], bool] = lambda: False) -> Job:
    """What a worker does with a message of that job's id; the job after it."""
    supervise(job.id, service.ledger, WorkerSettings(), stopping=stopping)
    return service.ledger.job(job.id)


@contextmanager
def doing(
    service: Service, job: Job, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Future[Job]]:
    """The same, beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(do, service, job, stopping)


class TestWhatIsTaken:
    def test_the_most_urgent_whatever_the_message_says(self, service: Service) -> None:
        low, other_queue = service.submit("sleep"), service.submit("sleep", queue=Queue.CPU)
        payload = service.payload("sleep")
        high = service.ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU, priority=5)
        assert do(service, low).state is JobState.QUEUED
        assert service.ledger.job(high.id).state is JobState.SUCCEEDED
        assert do(service, low).state is JobState.SUCCEEDED
        assert service.ledger.job(other_queue.id).state is JobState.QUEUED

    def test_something_or_nothing_and_says_so(self, service: Service) -> None:
        one = service.submit("sleep")
        took = [
            supervise(one.id, service.ledger, WorkerSettings(), stopping=lambda: False)
            for _ in range(2)
        ]
        assert took == [True, False]

    def test_nothing_that_is_over_paused_or_unknown(self, service: Service) -> None:
        over, paused = service.submit("sleep"), service.submit("sleep")
        service.ledger.request_cancel(over.id)
        service.ledger.request_pause(paused.id)
        assert do(service, over).attempt == do(service, paused).attempt == 0
        for given in (over.id, paused.id, "job_forgotten"):
            assert not supervise(given, service.ledger, WorkerSettings(), stopping=lambda: False)


class TestPassingFaults:
    def attempt(self, service: Service, job: Job) -> Job:
        """An attempt in this process."""
        claimed = service.ledger.claim(job.id, "w", 30)
        assert claimed is not None
        perform(JobContext(claimed, service.ledger, WorkerSettings()))
        return service.ledger.job(job.id)

    @pytest.mark.parametrize(
        ("met", "kind"),
        [
            ("fetch-failed", "fetch-failed"), ("in-use", "in-use"),
            ("disk-full", "internal-error"), ("network", "internal-error"),
        ],
    )  # fmt: skip
    def test_what_may_pass_is_tried_again_later_up_to_a_cap(
        self, service: Service, met: str, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = service.submit("meet", met=met)
        now = self.attempt(service, job)
        assert (now.state, now.failures, now.error) == (JobState.QUEUED, 1, None)
        assert now.not_before is not None
        assert 0 < (now.not_before - datetime.now(UTC)).total_seconds() <= 5
        assert now.stage is not None
        assert now.stage.startswith("queued again: ")
        assert do(service, job) == now  # not due yet
        monkeypatch.setenv("MIXLAB_MAX_RETRIES", "2")
        ended = self.attempt(service, job)
        assert (ended.state, ended.failures) == (JobState.FAILED, 2)
        assert ended.error is not None
        assert ended.error["type"] == kind

    def test_a_process_that_can_not_be_started_is(
        self, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As where the disk has no room for its log."""
        (tmp_path / "logs").write_text("")
        job = service.submit("sleep")
        monkeypatch.setenv("MIXLAB_MAX_FAILURES", "1")
        now = do(service, job)
        assert (now.state, now.failures, now.error) == (JobState.QUEUED, 1, None)
        assert now.not_before is not None
        assert str(now.stage).startswith("queued again: No process: ")
        monkeypatch.setenv("MIXLAB_MAX_RETRIES", "1")
        ended = do(service, service.submit("sleep"))
        assert ended.state is JobState.FAILED
        assert ended.error is not None
        assert "logs" in ended.error["detail"]

    def test_what_will_not_pass_is_not(self, service: Service) -> None:
        ended = self.attempt(service, service.submit("meet", met="denied"))
        assert (ended.state, ended.failures) == (JobState.FAILED, 0)


class TestPausing:
    def test_a_running_job_makes_its_checkpoint_and_is_held(
        self, service: Service, tmp_path: Path
    ) -> None:
        made = tmp_path / "made"
        job = service.submit("checkpoint", checkpoint=str(made))
        with doing(service, job) as done:
            service.running(job)
            service.ledger.request_pause(job.id)
            paused = done.result(30)
        assert (paused.state, paused.failures) == (JobState.PAUSED, 0)
        assert made.exists()
        assert not service.runners(job)
        assert do(service, job) == paused
        service.ledger.resume(job.id)
        ended = do(service, job)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)

    def test_one_that_is_cancelled_over_its_checkpoint_waits_no_longer(
        self, service: Service
    ) -> None:
        """A run that is paused has 90 s for a checkpoint; cancelled, a moment."""
        job = service.submit("stubborn", seconds=600)
        with doing(service, job) as done:
            service.running(job)
            service.ledger.request_pause(job.id)
            time.sleep(1.0)
            service.ledger.request_cancel(job.id)
            assert done.result(10).state is JobState.CANCELLED
        assert not service.runners(job)

    def test_one_that_makes_none_is_simply_ended(self, service: Service) -> None:
        job = service.submit("sleep", seconds=600)
        with doing(service, job) as done:
            service.running(job)
            service.ledger.request_pause(job.id)
            assert done.result(10).state is JobState.PAUSED


def test_a_cancelled_job_has_ended_within_five_seconds(
    service: Service, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """By the default settings, and though it doesn't listen. Twice that on a busy machine."""
    for name in ("MIXLAB_POLL_SECONDS", "MIXLAB_KILL_AFTER_SECONDS", "MIXLAB_LEASE_SECONDS"):
        monkeypatch.delenv(name)
    settings = WorkerSettings()
    assert settings.beat_seconds + settings.kill_after_seconds < 5
    job = service.submit("stubborn", seconds=600)
    with doing(service, job) as done:
        service.running(job)
        service.ledger.request_cancel(job.id)
        ended = done.result(30)
    assert ended.state is JobState.CANCELLED
    assert ended.finished_at is not None
    assert ended.cancel_requested_at is not None
    took = (ended.finished_at - ended.cancel_requested_at).total_seconds()
    record_property("seconds", took)
    assert took < 10
    assert not service.runners(job)


class TestGpus:
    @pytest.fixture(autouse=True)
    def simulated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MIXLAB_SIMULATED_GPUS", GPUS)

    @contextmanager
    def taken(self, service: Service, count: int = 2) -> Iterator[GpuLease]:
        with GpuLease(service.home / "gpus", GPUS.split(","), count) as lease:
            assert lease.take()
            yield lease

    def waiting(self, service: Service, job: Job) -> None:
        until(lambda: service.ledger.job(job.id).stage == GPU_STAGE)

    def test_a_job_sees_the_one_that_was_free(self, service: Service, tmp_path: Path) -> None:
        job = service.submit("visible", visible=str(tmp_path / "seen"))
        with self.taken(service, 1):
            assert do(service, job).state is JobState.SUCCEEDED
        assert (tmp_path / "seen").read_text() == "GPU-b"

    def test_a_full_scale_run_sees_all_that_it_needs(
        self, service: Service, tmp_path: Path
    ) -> None:
        recipe = tinyllama_1b().to_dict()
        job = service.submit("visible", visible=str(tmp_path / "seen"), role="full", recipe=recipe)
        do(service, job)
        assert (tmp_path / "seen").read_text() == GPUS

    def test_a_recipe_that_nobody_understands_is_the_bodys_to_refuse(
        self, service: Service, tmp_path: Path
    ) -> None:
        seen = str(tmp_path / "seen")
        job = service.submit("visible", visible=seen, role="full", recipe={"steps": 1})
        assert do(service, job).state is JobState.SUCCEEDED
        assert Path(seen).read_text() == "GPU-a"

    def test_it_waits_says_so_and_keeps_its_lease(self, service: Service, tmp_path: Path) -> None:
        job = service.submit("visible", visible=str(tmp_path / "seen"))
        with self.taken(service) as held, doing(service, job) as done:
            self.waiting(service, job)
            time.sleep(2.5)  # longer than a lease
            assert service.ledger.take_back_expired(3) == []
            held.__exit__()
            assert done.result(30).state is JobState.SUCCEEDED
        assert done.result().attempt == 1

    @pytest.mark.parametrize(
        ("ask", "state"),
        [("request_cancel", JobState.CANCELLED), ("request_pause", JobState.PAUSED)],
    )
    def test_who_waits_listens(self, service: Service, ask: str, state: JobState) -> None:
        job = service.submit("sleep")
        with self.taken(service), doing(service, job) as done:
            self.waiting(service, job)
            getattr(service.ledger, ask)(job.id)
            assert done.result(10).state is state
        assert service.effects(job) == []
        with self.taken(service):  # nobody stands in the line any more
            pass

    def test_who_waits_gives_the_job_back_when_its_worker_stops(self, service: Service) -> None:
        job, stop = service.submit("sleep"), threading.Event()
        with self.taken(service), doing(service, job, stop.is_set) as done:
            self.waiting(service, job)
            stop.set()
            now = done.result(10)
        assert (now.state, now.failures, now.not_before) == (JobState.QUEUED, 0, None)

    def test_jobs_of_the_cpu_queue_wait_for_none(self, service: Service, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        with self.taken(service):
            do(service, service.submit("visible", queue=Queue.CPU, visible=str(seen)))
        assert seen.read_text() == "all"

    def test_a_host_whose_gpus_do_not_answer_takes_no_job(
        self,
        service: Service,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.delenv("MIXLAB_SIMULATED_GPUS")
        monkeypatch.setenv("MIXLAB_GPUS", "1")
        script = tmp_path / "nvidia-smi"
        script.write_text("#!/bin/sh\nexit 9\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        now = do(service, service.submit("sleep"))
        # Not even claimed: such a host would fail all jobs, one after the other.
        assert (now.state, now.attempt, now.failures) == (JobState.QUEUED, 0, 0)
        assert "nvidia-smi fails, though MIXLAB_GPUS says that there are GPUs" in caplog.text


def test_a_job_that_was_taken_back_is_left_alone(service: Service) -> None:
    """As after its supervisor was halted: the process is killed, and nothing is written."""
    job = service.submit("stubborn", seconds=600)
    with doing(service, job) as done:
        service.running(job)
        service.ledger.give_back(job.id, 1, "Worker w was not heard of.", 3)  # as the sweep does
        after = done.result(10)
    assert (after.state, after.failures) == (JobState.QUEUED, 1)
    assert not service.runners(job)
    assert service.effects(job) == []


def test_an_attempt_that_told_its_outcome_itself_has_ended(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """However long its process then takes to go: it isn't lost."""
    caplog.set_level(logging.INFO)
    job = service.submit("linger", seconds=2)
    assert do(service, job).state is JobState.SUCCEEDED
    assert "attempt 1 is over: ended" in caplog.text


def test_a_jobs_process_gives_way_to_the_services_own(service: Service) -> None:
    job = service.submit("sleep", seconds=60)
    with doing(service, job):
        until(lambda: service.ledger.job(job.id).stage == "sleep")
        (runner,) = processes(f"workers.runner {job.id}")
        niceness = os.getpriority(os.PRIO_PROCESS, runner)
        service.ledger.request_cancel(job.id)
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
