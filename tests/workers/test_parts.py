"""The workers' parts one at a time: runner, context, lease, environment, sweep."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import create_engine, text

from cli.broker import Broker
from mixlab.errors import LeaseLost
from mixlab.ledger import Heartbeat, Ledger
from mixlab.ledger.records import Job, JobKind, Queue
from tests.ledger.clock import FakeClock
from tests.workers.conftest import QUICK, until
from workers.app import make_app
from workers.jobs.context import JobContext
from workers.runner import JOBS, body
from workers.settings import WorkerSettings
from workers.supervisor import Lease, Verdict, environment, patience
from workers.sweep import sweep


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = Ledger.open(url)
    yield opened
    opened.close()


@pytest.fixture
def job(ledger: Ledger) -> Job:
    queued = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    claimed = ledger.claim(queued.id, "w", 30)
    assert claimed is not None
    return claimed


def test_every_kind_of_job_has_a_body() -> None:
    assert set(JOBS) == set(JobKind)
    for kind in JobKind:
        assert callable(body(kind, WorkerSettings()))


@pytest.mark.parametrize("kind", [JobKind.MEASURE_CORPUS, JobKind.FIT_MIXTURE])
def test_jobs_of_the_cpu_queue_load_no_torch(kind: JobKind) -> None:
    script = f"""
import sys
import workers.supervisor
from workers.runner import body
from workers.settings import WorkerSettings
body({kind.value!r}, WorkerSettings())
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_progress_is_written_twice_a_second_and_at_each_stage(ledger: Ledger, job: Job) -> None:
    context = JobContext(job, ledger, WorkerSettings())
    before, began = ledger.job(job.id).version, time.monotonic()
    while time.monotonic() - began < 1.2:
        context.progress("train", time.monotonic() - began)
    assert 2 <= ledger.job(job.id).version - before <= 4
    context.progress("evaluate", 0.9)
    assert ledger.job(job.id).stage == "evaluate"


def test_progress_stops_a_body_that_lost_its_job(ledger: Ledger, job: Job) -> None:
    context = JobContext(job, ledger, WorkerSettings())
    ledger.give_back(job.id, job.attempt, "stopped", None)
    with pytest.raises(LeaseLost):
        context.progress("train", 0.5)


def test_a_ledger_that_is_away_counts_as_long_as_the_lease(
    url: str, ledger: Ledger, job: Job
) -> None:
    lease = Lease(ledger, job, WorkerSettings(lease_seconds=0.3))
    assert lease.beat() is Heartbeat.CONTINUE
    engine = create_engine(url)
    with engine.begin() as db:
        db.execute(text("ALTER TABLE jobs RENAME TO away"))
    assert lease.beat() is Heartbeat.CONTINUE
    time.sleep(0.35)
    assert lease.beat() is Heartbeat.LOST
    with engine.begin() as db:
        db.execute(text("ALTER TABLE away RENAME TO jobs"))
    assert lease.beat() is Heartbeat.CONTINUE
    engine.dispose()


@pytest.mark.parametrize(
    ("queue", "settings", "gpus", "added"),
    [
        (Queue.CPU, {"threads": 1}, [], {}),
        (Queue.GPU, {}, [], {}),
        (Queue.GPU, {"threads": 1}, [], {"OMP_NUM_THREADS": "1"}),
        (Queue.GPU, {}, ["GPU-a"], {"CUDA_VISIBLE_DEVICES": "GPU-a"}),
        (Queue.GPU, {}, ["GPU-a", "GPU-b"], {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}),
    ],
)
def test_a_job_sees_the_gpus_that_it_was_given(
    ledger: Ledger, queue: Queue, settings: dict[str, Any], gpus: list[str], added: dict[str, str]
) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=queue)
    found = environment(job, WorkerSettings(**settings), gpus)
    assert found == {"PYTHONUNBUFFERED": "1", **added}


@pytest.mark.parametrize(
    ("kind", "verdict", "seconds"),
    [
        (JobKind.TRAIN, Verdict.STOP, 90.0),
        (JobKind.TRAIN_PROXIES, Verdict.STOP, 90.0),
        (JobKind.TRAIN, Verdict.PAUSE, 90.0),
        (JobKind.TRAIN, Verdict.CANCEL, 3.0),
        (JobKind.TRAIN, Verdict.LOST, 3.0),
        (JobKind.FIT_MIXTURE, Verdict.STOP, 3.0),
        (JobKind.MEASURE_CORPUS, Verdict.PAUSE, 3.0),
    ],
)
def test_only_a_training_that_will_go_on_has_time_for_a_checkpoint(
    ledger: Ledger, kind: JobKind, verdict: Verdict, seconds: float
) -> None:
    job = ledger.submit(kind, {}, queue=Queue.GPU)
    assert patience(job, verdict, WorkerSettings()) == seconds


@pytest.mark.service
def test_the_sweep_outlives_a_missing_broker_and_ledger(url: str, tmp_path: Path) -> None:
    broker = Broker.prepare(tmp_path / "broker")
    log = tmp_path / "sweep.log"
    told = QUICK | {"MIXLAB_DATABASE_URL": url, "MIXLAB_BROKER_URL": broker.url}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.sweep"], env=os.environ | told, stderr=output
        )
    try:
        until(lambda: "OperationalError" in log.read_text())  # no table yet
        ledger = Ledger.open(url)
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        heard = log.read_text().count("next round")
        until(lambda: log.read_text().count("next round") > heard + 1)  # no broker yet
        assert len(ledger.unsent()) == 1
        with (
            log.open("ab") as output,
            subprocess.Popen(broker.command, stdout=output) as server,
            Redis(port=broker.port, password=broker.password) as client,
        ):
            broker.wait(server, log)
            until(lambda: ledger.unsent() == [])
            # Sent before resend_after_seconds went by, and not again while the message waits.
            time.sleep(1.5)
            assert client.llen("mixlab:gpu") == 1
            client.delete("mixlab:gpu")  # the broker loses it
            until(lambda: client.llen("mixlab:gpu") == 1)
            server.terminate()
        assert process.poll() is None
        ledger.close()
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert broker.password not in log.read_text()


@pytest.mark.service
def test_while_messages_wait_the_sweep_piles_up_no_more(url: str, tmp_path: Path) -> None:
    """Whatever the jobs wait for, such as one worker for days: the broker's memory is bounded."""
    broker = Broker.prepare(tmp_path / "broker")
    settings = WorkerSettings(home=tmp_path, broker_url=broker.url)
    log, clock = tmp_path / "broker.log", FakeClock()
    ledger, app = Ledger.open(url, clock=clock), make_app(settings)
    for _ in range(3):
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    with (
        log.open("ab") as output,
        subprocess.Popen(broker.command, stdout=output) as server,
        Redis(port=broker.port, password=broker.password) as client,
    ):
        try:
            broker.wait(server, log)
            for _ in range(3):
                sweep(ledger, app, settings)
                assert client.llen("mixlab:gpu") == 3
                clock.advance(24 * 3600)
            client.delete("mixlab:gpu")  # the broker loses them
            sweep(ledger, app, settings)
            assert client.llen("mixlab:gpu") == 3
        finally:
            server.terminate()
    app.close()
    ledger.close()
