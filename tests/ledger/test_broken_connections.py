"""A PostgreSQL that drops connections, is restarted, or is silent: nothing is lost or doubled."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from mixlab.ledger import Ledger, engine
from mixlab.ledger.database import Database, away
from mixlab.ledger.records import JobState
from mixlab.ledger.schema import jobs
from tests.ledger import postgres
from tests.ledger.clock import FakeClock
from tests.ledger.making import LEASE, claimed, state, submit, told

PATIENCE = 30.0
KILL = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    "AND datname = current_database() AND backend_type = 'client backend'"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One of its own, since it is stopped."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL's binaries (initdb, pg_ctl) are not on this machine")
    with postgres.cluster() as url:
        Ledger.open(url).close()
        yield url


@pytest.fixture
def patient(cluster: str) -> Iterator[Ledger]:
    opened = Ledger.open(cluster, patience_seconds=PATIENCE)
    yield opened
    opened.close()


@contextmanager
def connections_ended(url: str) -> Iterator[list[int]]:
    """All others' connections end again and again; how many did, once it is over."""
    over, ended = threading.Event(), []

    def end_them() -> None:
        administrator = create_engine(url, isolation_level="AUTOCOMMIT")
        with administrator.connect() as db:
            while not over.wait(random.uniform(0.05, 0.2)):
                ended.append(db.execute(KILL).scalar_one())
        administrator.dispose()

    thread = threading.Thread(target=end_them)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


def test_work_goes_on_while_connections_are_ended(cluster: str) -> None:
    def work(worker: str) -> list[str]:
        mine = Ledger.open(cluster, migrate=False, patience_seconds=PATIENCE)
        ids = []
        for number in range(10):
            job = submit(mine, key=f"{worker}/{number}")
            held = mine.claim(job.id, worker, LEASE)
            assert held is not None
            mine.progress(job.id, held.attempt, stage="train", fraction=0.5)
            mine.succeed(job.id, held.attempt, {})
            ids.append(job.id)
        mine.close()
        return ids

    with connections_ended(cluster) as ended, ThreadPoolExecutor(4) as pool:
        ids = [job_id for each in pool.map(work, "abcd") for job_id in each]
    assert sum(ended) > 10
    assert len(set(ids)) == 40
    ledger = Ledger.open(cluster)
    for job_id in ids:
        job = ledger.job(job_id)
        assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 1, 0)
        assert told(ledger, job) == ["submitted", "started", "stage", "succeeded"]
    ledger.close()


def test_a_restart_is_waited_for_by_all_but_a_heartbeat(cluster: str, patient: Ledger) -> None:
    job = claimed(patient)
    postgres.stop(cluster)
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError):
            patient.heartbeat(job.id, 1, LEASE)
        assert time.monotonic() - began < 1.0
        impatient = Ledger.open(cluster, migrate=False)
        with pytest.raises(OperationalError):
            impatient.job(job.id)
        end = threading.Thread(target=lambda: patient.succeed(job.id, 1, {}))
        end.start()
        end.join(0.5)
        assert end.is_alive()
    finally:
        postgres.start(cluster)
    end.join(PATIENCE)
    assert state(patient, job) is JobState.SUCCEEDED
    assert impatient.job(job.id).state is JobState.SUCCEEDED  # its broken connections are replaced
    impatient.close()


def test_a_lease_begins_when_its_claim_is_written(cluster: str, patient: Ledger) -> None:
    """Else it would be over before the job is begun, and the sweep count a failure."""
    job, began = submit(patient), patient.now()
    with ThreadPoolExecutor(1) as pool:
        postgres.stop(cluster)
        try:
            claim = pool.submit(patient.claim, job.id, "w:1", 1.0)
            time.sleep(1.5)
        finally:
            postgres.start(cluster)
        held = claim.result(PATIENCE)
    assert held is not None
    assert held.lease_until is not None
    assert (held.lease_until - began).total_seconds() > 2.5


def test_a_claim_whose_answer_was_lost_is_found_with_a_whole_lease(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.sqlite", clock=clock, patience_seconds=9)
    job, write = submit(ledger), Database.write
    answers = iter([False, True])

    def write_and_lose(database: Database, work: Any) -> Any:
        written = write(database, work)
        if not next(answers):
            clock.advance(2 * LEASE)
            raise OperationalError("COMMIT", {}, Exception("connection lost"))
        return written

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", write_and_lose)
        held = ledger.claim(job.id, "w:1", LEASE)
    assert held is not None
    assert (held.attempt, held.lease_until) == (1, clock() + timedelta(seconds=LEASE))
    assert told(ledger, job) == ["submitted", "started"]
    assert ledger.take_back_expired(3) == []
    ledger.close()


def test_patience_has_an_end(cluster: str) -> None:
    ledger = Ledger.open(cluster, patience_seconds=0.5)
    postgres.stop(cluster)
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError):
            ledger.job("job_none")
        assert 0.2 < time.monotonic() - began < 5.0
    finally:
        postgres.start(cluster)
        ledger.close()


def test_what_a_database_refuses_is_not_tried_again(patient: Ledger) -> None:
    began = time.monotonic()
    with pytest.raises(DBAPIError, match="too long"):
        submit(patient, key="k" * 999)
    assert time.monotonic() - began < 5.0


def test_a_halted_process_holds_no_row_for_long(
    cluster: str, patient: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "IDLE_IN_TRANSACTION_MS", 300)
    job = claimed(patient)
    halted = engine.open_engine(cluster)
    with halted.connect() as db:
        db.execute(select(jobs).where(jobs.c.id == job.id).with_for_update())
        began = time.monotonic()
        assert patient.request_cancel(job.id).cancel_requested_at is not None
        assert 0.1 < time.monotonic() - began < 5.0
        with pytest.raises(DBAPIError) as met:
            db.execute(select(jobs.c.id))
        assert away(met.value)
    halted.dispose()


def test_a_host_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.IMPATIENT, "connect_timeout", "2")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        url = f"postgresql://mixlab@127.0.0.1:{port}/x"
        ledger = Ledger.open(url, migrate=False, clock=FakeClock())
        began = time.monotonic()
        with pytest.raises(OperationalError):
            ledger.heartbeat("job_none", 1, LEASE)
        assert time.monotonic() - began < 8.0
        ledger.close()


def test_what_an_url_says_comes_before_our_impatience() -> None:
    opened = engine.open_engine("postgresql://mixlab@h/x?connect_timeout=60")
    assert opened.url.query["connect_timeout"] == "60"
    assert opened.url.query["tcp_user_timeout"] == "10000"
