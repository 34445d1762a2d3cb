"""`mixlab up` as its user meets it: started, refused twice, interrupted, killed."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from cli import broker, up
from cli.broker import CannotStart
from mixlab.ledger.records import JobState
from tests.workers.conftest import Service, alive, descendants, open_ledger, until

pytestmark = pytest.mark.service


class Up:
    """`mixlab up` in a process of its own."""

    def __init__(self, home: Path) -> None:
        command = "import typer; from cli.up import up; typer.run(up)"
        port = ["--port", str(broker.free_port())]
        workers = ["--cpu-workers", "1", "--gpu-workers", "1"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "--home", str(home), *port, *workers],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ready(self) -> "Up":
        assert self.process.stderr is not None
        assert "mixlab is up" in self.process.stderr.readline()
        return self


@pytest.fixture
def start() -> Iterator[Callable[[Path], Up]]:
    """Start one; what a failed test leaves behind is ended."""
    started: list[Up] = []

    def start(home: Path) -> Up:
        started.append(Up(home))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def home(tmp_path: Path, quick: None) -> Path:
    folder = tmp_path / "a home"  # with a space, as they have on macOS
    folder.mkdir()
    return folder


def test_a_second_one_is_refused_and_ctrl_c_stops_everything(
    home: Path, start: Callable[[Path], Up]
) -> None:
    first = start(home).ready()
    second = start(home)
    _, said = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert "already up" in said
    assert "http://127.0.0.1:" in said

    started = descendants(first.process.pid)
    assert len(started) >= 6  # broker, API, two workers with their pools, sweep, watchdog
    began = time.monotonic()
    first.process.send_signal(signal.SIGINT)
    _, said = first.process.communicate(timeout=15)
    assert time.monotonic() - began < 12
    assert first.process.returncode == 0
    assert "stopped" in said
    assert "Traceback" not in said
    assert not [pid for pid in started if alive(pid)]


def test_killed_it_leaves_nothing_and_the_next_start_goes_on(
    home: Path, start: Callable[[Path], Up]
) -> None:
    first = start(home).ready()
    ledger = open_ledger(home)
    service = Service(home, ledger)
    job = service.submit("sleep", seconds=600, slow_attempts=1)
    service.running(job)
    started = descendants(first.process.pid)
    first.process.kill()
    first.process.communicate()
    until(lambda: not [pid for pid in started if alive(pid)], 15)

    second = start(home).ready()
    assert service.ended(job).state is JobState.SUCCEEDED
    assert len(service.effects(job)) == 1

    # Now as when the machine loses its power: nobody hands anything back.
    job = service.submit("sleep", seconds=600, slow_attempts=1)
    service.running(job)
    for pid in (second.process.pid, *descendants(second.process.pid)):
        os.kill(pid, signal.SIGKILL)
    second.process.communicate()
    assert ledger.job(job.id).state is JobState.RUNNING
    waiting = service.submit("sleep")

    third = start(home).ready()
    done = service.ended(job)
    assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 2, 1)
    assert service.ended(waiting).state is JobState.SUCCEEDED
    third.process.terminate()
    third.process.communicate(timeout=15)
    assert third.process.returncode == 0
    ledger.close()


class TestBroker:
    def test_listens_on_loopback_with_a_secret_password(self, tmp_path: Path) -> None:
        made = broker.Broker.prepare(tmp_path / "broker")
        assert stat.S_IMODE(made.config_file.stat().st_mode) == 0o600
        assert made.password not in " ".join(made.command)
        log = tmp_path / "log"
        with log.open("wb") as output, subprocess.Popen(made.command, stdout=output) as process:
            made.wait(process, log)
            with Redis(port=made.port) as stranger, pytest.raises(AuthenticationError):
                stranger.ping()
            with Redis(port=made.port, password=made.password) as client:
                told = {
                    key: client.config_get(key)[key]
                    for key in ("bind", "appendonly", "maxmemory-policy")
                }
            process.terminate()
        assert told == {
            "bind": "127.0.0.1", "appendonly": "yes", "maxmemory-policy": "noeviction",
        }  # fmt: skip

    def test_says_how_to_get_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker, "_candidates", lambda: iter(()))
        monkeypatch.delenv(broker.VARIABLE, raising=False)
        with pytest.raises(CannotStart, match="apt install redis-server"):
            broker.find_server()

    def test_takes_the_one_that_it_is_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        there = broker.find_server()
        monkeypatch.setenv(broker.VARIABLE, str(there))
        assert broker.find_server() == there
        monkeypatch.setenv(broker.VARIABLE, str(tmp_path / "none"))
        with pytest.raises(CannotStart, match="no Redis or Valkey server"):
            broker.find_server()

    def test_a_server_too_old_is_passed_over(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        old = tmp_path / "redis-server"
        old.write_text("#!/bin/sh\necho Redis server v=5.0.7 sha=0\n")
        old.chmod(0o755)
        assert broker.version_of(old) == (5, 0)
        monkeypatch.delenv(broker.VARIABLE, raising=False)
        monkeypatch.setattr(broker, "_candidates", lambda: iter((old,)))
        with pytest.raises(CannotStart, match=r"6\.2"):
            broker.find_server()


def test_a_taken_port_is_told(quick: None, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=str(port)):
            up.Stack(tmp_path, port=port).start()
    up._only_one(tmp_path).close()  # its lock was freed
