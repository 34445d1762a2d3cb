"""A worker's row is renewed while it takes messages, and by nothing else."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.broker import Broker
from cli.up import worker
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobState, Queue, Worker
from tests.workers.conftest import QUICK, Service, open_ledger, until
from workers import beating
from workers.health import judged, main
from workers.settings import WorkerSettings

HOST = "here"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def one(queue: Queue = Queue.GPU, age: float = 1.0, host: str = HOST) -> Worker:
    beat_at = NOW - timedelta(seconds=age)
    return Worker(f"{queue}@{host}", host, queue, 1, (), "0", beat_at, beat_at)


class TestJudging:
    @pytest.mark.parametrize(
        ("workers", "queue", "alive", "why"),
        [
            ([one()], Queue.GPU, True, "1 s ago"),
            ([one()], None, True, "worker of host here"),
            ([one(age=60)], Queue.GPU, True, "60 s ago"),
            ([one(age=61)], Queue.GPU, False, "61 s ago, more than 60 s"),
            ([one(age=-5)], Queue.GPU, True, "0 s ago"),  # another clock
            ([one(age=999), one(age=2)], Queue.GPU, True, "2 s ago"),  # one was started anew
            ([one(Queue.CPU)], Queue.GPU, False, "No gpu worker"),
            ([one(host="there")], None, False, "No worker of host here"),
            ([], None, False, "No worker"),
        ],
    )
    def test_by_the_age_of_this_hosts_row(
        self, workers: list[Worker], queue: Queue | None, alive: bool, why: str
    ) -> None:
        found, told = judged(workers, HOST, queue, 60.0, NOW)
        assert found is alive
        assert why in told

    def test_a_ledger_that_is_away_is_no_life(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MIXLAB_HOME", str(tmp_path))
        assert main([]) == 1  # no tables yet
        assert "OperationalError" in capsys.readouterr().err


class TestPulse:
    def test_a_slow_database_holds_up_nobody_but_the_thread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = open_ledger(tmp_path)
        entered, go_on = threading.Event(), threading.Event()

        def slow(*_: object, **__: object) -> None:
            entered.set()
            go_on.wait(20)

        monkeypatch.setattr("mixlab.ledger.fleet.Fleet.beat", slow)
        pulse = beating.Pulse("w", [Queue.CPU], 1, WorkerSettings(home=tmp_path))
        pulse.beat()
        assert entered.wait(20)
        began = time.monotonic()
        for _ in range(1000):
            pulse.beat()
        assert time.monotonic() - began < 1.0
        go_on.set()
        pulse.stop()
        ledger.close()

    def test_no_process_is_forked_while_it_is_connected(self) -> None:
        """A pool process that is replaced would share the locks of an open SQLite connection."""
        order = []

        def beat() -> None:
            with beating._CONNECTED:
                time.sleep(0.3)
                order.append("beat")

        thread = threading.Thread(target=beat)
        thread.start()
        until(beating._CONNECTED.locked)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not beating._CONNECTED.locked() else 1)
        order.append("fork")
        assert os.waitpid(pid, 0)[1] == 0
        thread.join()
        assert order == ["beat", "fork"]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    told = QUICK | {
        "MIXLAB_HOME": str(tmp_path),
        "MIXLAB_PULSE_SECONDS": "0.5",
        "MIXLAB_SIMULATED_GPUS": "GPU-a,GPU-b",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    ledger = open_ledger(tmp_path)
    yield Service(tmp_path, ledger)
    ledger.close()


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def alive() -> bool:
    return main(["--queue", "gpu", "--max-age", "1.5"]) == 0


def dead() -> bool:
    return not alive()


@pytest.mark.service
def test_a_worker_that_takes_no_messages_falls_silent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, log = Broker.prepare(service.home / "broker"), service.home / "log"
    monkeypatch.setenv("MIXLAB_BROKER_URL", broker.url)
    with running(worker(Queue.GPU, 2), log) as process:
        with running(broker.command, log) as server:
            broker.wait(server, log)
            until(alive)
            (row,) = service.ledger.fleet.workers()
            assert (row.host, row.queue, row.slots) == (socket.gethostname(), Queue.GPU, 2)
            assert [gpu["uuid"] for gpu in row.gpus] == ["GPU-a", "GPU-b"]
            assert_busy_is_alive(service)
            process.send_signal(signal.SIGSTOP)  # it is there, and hangs
            until(dead)
            process.send_signal(signal.SIGCONT)
            until(alive)
        until(dead)  # no broker
        assert process.poll() is None
        with running(broker.command, log) as server:
            broker.wait(server, log)
            until(alive)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert service.ledger.fleet.workers() == []


def assert_busy_is_alive(service: Service) -> None:
    from workers.app import make_app
    from workers.outbox import send_unsent

    jobs = [service.submit("sleep", seconds=3) for _ in range(2)]  # one a slot
    app = make_app(WorkerSettings())
    send_unsent(app, service.ledger)
    app.close()
    for job in jobs:
        service.running(job)
    assert ledger_says_alive_for(service.ledger, 2.0)
    for job in jobs:
        assert service.ended(job).state is JobState.SUCCEEDED


def ledger_says_alive_for(ledger: Ledger, seconds: float) -> bool:
    """Whether the row was never older than a beat or two."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if dead():
            return False
        time.sleep(0.1)
    return True
