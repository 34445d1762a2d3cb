"""Jobs through the real broker, worker, ledger and subprocesses."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cli.client import Client
from mixlab.ledger.records import JobKind, JobState, Queue
from tests.workers.conftest import Service, alive, parent_of, processes, until
from workers.app import make_app
from workers.contract import TASK_RUN_JOB
from workers.settings import WorkerSettings

pytestmark = pytest.mark.service


def broker_conf(service: Service) -> dict[str, str]:
    lines = (service.home / "broker" / "broker.conf").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def broker_url(service: Service) -> str:
    told = broker_conf(service)
    return f"redis://:{told['requirepass']}@127.0.0.1:{told['port']}/0"


def test_a_job_delivered_many_times_has_one_effect(service: Service) -> None:
    job = service.submit("sleep", seconds=0.5)
    app = make_app(WorkerSettings(broker_url=broker_url(service)))
    for _ in range(10):
        app.send_task(TASK_RUN_JOB, args=(job.id,), queue="gpu")
    app.close()
    done = service.ended(job)
    assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 1, 0)
    assert done.result == {"href": f"/trainings/{job.id}"}
    after = service.ended(service.submit("sleep"))  # behind the copies
    assert after.state is JobState.SUCCEEDED
    assert len(service.effects(job)) == 1


def test_messages_that_make_no_sense_do_no_harm(service: Service) -> None:
    app = make_app(WorkerSettings(broker_url=broker_url(service)))
    unknown: list[Any] = ["job_none", "", "x" * 100_000, None, 7, ["job"], {"id": "job"}]
    for job_id in unknown:
        app.send_task(TASK_RUN_JOB, args=(job_id,), queue="gpu")
    app.send_task(TASK_RUN_JOB, args=(), queue="gpu")
    app.send_task(TASK_RUN_JOB, args=("a", "b"), kwargs={"c": 1}, queue="gpu")
    app.send_task("os.system", args=("true",), queue="gpu")
    app.close()
    began = time.monotonic()
    behind = service.ended(service.submit("sleep"))
    assert (behind.state, behind.attempt) == (JobState.SUCCEEDED, 1)
    assert time.monotonic() - began < 20  # no slot was held up


def test_cancelling_a_running_job_stops_all_that_it_started(
    service: Service, tmp_path: Path
) -> None:
    job = service.submit("with_child", seconds=600, child=str(tmp_path / "child"))
    service.running(job)
    child = int((tmp_path / "child").read_text())
    service.ledger.request_cancel(job.id)
    assert service.ended(job, 10).state is JobState.CANCELLED
    assert not alive(child)
    assert not service.runners(job)
    assert service.effects(job) == []


def test_cancelling_a_queued_job_keeps_it_from_running(service: Service) -> None:
    job = service.submit("sleep")
    asked = service.ledger.request_cancel(job.id)
    last = service.ended(service.submit("sleep"))
    assert last.state is JobState.SUCCEEDED
    if asked.state is JobState.CANCELLED:  # else a worker was quicker
        assert service.effects(job) == []


def test_a_crash_is_tried_again(service: Service) -> None:
    job = service.ended(service.submit("crash", times=1))
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 2, 1)
    assert len(service.effects(job)) == 1


@pytest.mark.parametrize(("act", "how"), [("crash", "signal SIGKILL"), ("leave", "exit code 0")])
def test_a_job_that_always_crashes_fails_with_the_reason(
    service: Service, act: str, how: str
) -> None:
    job = service.ended(service.submit(act, times=99))
    assert (job.state, job.attempt, job.failures) == (JobState.FAILED, 2, 2)
    assert job.error is not None
    assert job.error["type"] == "worker-crashed"
    assert how in job.error["detail"]
    if act == "crash":
        assert "about to use too much memory" in job.error["detail"]


def test_a_refusal_is_not_tried_again(service: Service) -> None:
    job = service.ended(service.submit("refuse"))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error == {
        "type": "domain-too-small",
        "title": "A domain with fewer tokens than one sequence of the recipe.",
        "detail": "Domain 'law' has 12 tokens; one sequence needs 129.",
    }


def test_a_defect_tells_its_line_and_keeps_its_traceback(service: Service) -> None:
    job = service.ended(service.submit("break"))
    assert job.error is not None
    assert job.error["type"] == "internal-error"
    assert "ZeroDivisionError: division by zero" in job.error["detail"]
    log = (service.home / "logs" / f"{job.id}.1.log").read_text()
    assert "Traceback" in log


def test_a_parent_goes_on_when_its_last_child_has_ended(service: Service) -> None:
    children = [
        service.payload("sleep", seconds=0.1),
        service.payload("refuse"),
        service.payload("crash", times=1),
        service.payload("sleep"),
    ]
    job = service.ledger.submit(JobKind.FIT_MIXTURE, {"children": children}, queue=Queue.CPU)
    done = service.ended(job)
    assert done.state is JobState.SUCCEEDED
    assert done.result == {"ended": ["succeeded", "failed", "succeeded", "succeeded"]}
    assert len(service.ledger.children(job.id)) == 4


def test_cancelling_a_parent_stops_its_children(service: Service) -> None:
    children = [service.payload("sleep", seconds=600) for _ in range(4)]
    job = service.ledger.submit(JobKind.FIT_MIXTURE, {"children": children}, queue=Queue.CPU)
    until(lambda: service.ledger.job(job.id).state is JobState.WAITING)
    until(lambda: sum(c.state is JobState.RUNNING for c in service.ledger.children(job.id)) == 2)
    assert service.ledger.request_cancel(job.id).state is JobState.CANCELLED
    for child in service.ledger.children(job.id):
        assert service.ended(child, 10).state is JobState.CANCELLED
        assert not service.runners(child)


class TestKilling:
    def test_a_request_while_the_broker_is_down(self, service: Service) -> None:
        """Held first, so that it is surely away when the request comes; then killed."""
        assert service.stack is not None
        corpus = service.ledger.add_corpus("any", {"domains": {}})
        (broker,) = processes(f"127.0.0.1:{broker_conf(service)['port']}")
        with Client(service.stack.base_url) as client:
            os.kill(broker, signal.SIGSTOP)
            assert client.get("/readyz")["status"] == "degraded"
            asked = client.post(f"/corpora/{corpus.id}/entropy")  # anything but a 2xx raises
            assert asked["state"] == "queued"
            assert asked["id"] in [job.id for job in service.ledger.unsent()]
            os.kill(broker, signal.SIGKILL)
            assert client.result(asked["id"])["id"] == corpus.id

    def test_a_killed_pool_process(self, service: Service) -> None:
        job = service.submit("sleep", seconds=600, slow_attempts=1)
        service.running(job)
        (runner,) = service.runners(job)
        os.kill(service.slot(job), signal.SIGKILL)
        until(lambda: not alive(runner), 1)  # long before its lease is over
        done = service.ended(job)
        assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 2, 1)
        assert len(service.effects(job)) == 1

    def test_a_killed_worker(self, service: Service) -> None:
        """Its main process alone, as `kill -9` does: the pool's processes notice by themselves."""
        job = service.submit("sleep", seconds=600, slow_attempts=1)
        service.running(job)
        (runner,) = service.runners(job)
        os.kill(parent_of(service.slot(job)), signal.SIGKILL)
        done = service.ended(job)
        assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
        assert not alive(runner)
        assert len(service.effects(job)) == 1

    def test_a_worker_that_is_told_to_stop_gives_its_job_back(self, service: Service) -> None:
        job = service.submit("sleep", seconds=600, slow_attempts=1)
        service.running(job)
        os.kill(parent_of(service.slot(job)), signal.SIGTERM)
        done = service.ended(job)
        assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 2, 0)

    def test_a_worker_that_is_told_to_stop_lets_a_training_make_its_checkpoint(
        self, service: Service, tmp_path: Path
    ) -> None:
        """For which it needs longer than a lease lasts: nobody else takes the job up meanwhile."""
        job = service.submit("checkpoint", checkpoint=str(tmp_path / "made"))
        service.running(job)
        os.kill(parent_of(service.slot(job)), signal.SIGTERM)
        until(lambda: (tmp_path / "made").exists())
        done = service.ended(job)
        assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 2, 0)
        assert len(service.effects(job)) == 1

    def test_a_runner_that_is_told_to_stop_can_go_on(
        self, service: Service, tmp_path: Path
    ) -> None:
        job = service.submit("checkpoint", checkpoint=str(tmp_path / "made"))
        service.running(job)
        (runner,) = service.runners(job)
        os.kill(runner, signal.SIGTERM)
        done = service.ended(job)
        assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 2, 0)

    def test_a_killed_broker(self, service: Service) -> None:
        """Both slots busy: there a worker that acknowledges late would exit (Celery 5.7.0)."""
        busy = [service.submit("sleep", seconds=3) for _ in range(2)]
        for job in busy:
            service.running(job)
        worker = parent_of(service.slot(busy[0]))
        (broker,) = processes(f"127.0.0.1:{broker_conf(service)['port']}")
        os.kill(broker, signal.SIGKILL)
        waiting = service.submit("sleep")
        until(lambda: any("broker ended" in line for line in service.said))
        for job in (*busy, waiting):
            done = service.ended(job)
            assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
        assert alive(worker)
