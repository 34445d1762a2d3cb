"""The real service with short leases, and bodies from fake_jobs."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli.up import Stack
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from workers.contract import SharedSettings
from workers.settings import WorkerSettings

QUICK = {
    "MIXLAB_JOB_MODULE_PREFIX": "tests.workers.fake_jobs",
    "MIXLAB_LEASE_SECONDS": "2",
    "MIXLAB_POLL_SECONDS": "0.2",
    "MIXLAB_KILL_AFTER_SECONDS": "0.5",
    "MIXLAB_SWEEP_SECONDS": "0.2",
    "MIXLAB_RESEND_AFTER_SECONDS": "1",
    "MIXLAB_MAX_FAILURES": "2",  # a third attempt would wait for five seconds
}


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    """Of a worker that the test plays, in its own process."""
    return WorkerSettings(home=tmp_path / "home", threads=1)


@pytest.fixture
def ledger(settings: WorkerSettings) -> Iterator[Ledger]:
    """Of that worker's home."""
    settings.home.mkdir(parents=True, exist_ok=True)
    opened = Ledger.open(settings.database_url.get_secret_value())
    yield opened
    opened.close()


def until(what: Callable[[], Any], seconds: float = 45.0) -> Any:
    """Wait for something to become true; fails the test where it doesn't."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def processes(text: str) -> dict[int, str]:
    """Living processes, zombies left out, whose command line has the text."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(r[0]): r[2] for r in rows if len(r) == 3 and text in r[2] and r[1][0] != "Z"}


def descendants(root: int) -> set[int]:
    """All that a process started, and what those started."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    found: set[int] = set()
    frontier = {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def alive(pid: int) -> bool:
    told = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(told) and told[0] != "Z"


@dataclass
class Service:
    """A running service as its tests see it."""

    home: Path
    ledger: Ledger
    said: list[str] = field(default_factory=list)
    stack: Stack | None = None

    def submit(self, act: str, *, queue: Queue = Queue.GPU, **payload: Any) -> Job:
        return self.ledger.submit(JobKind.TRAIN, self.payload(act, **payload), queue=queue)

    def payload(self, act: str, **payload: Any) -> dict[str, Any]:
        return {"act": act, "effects": str(self.home / "effects"), "seconds": 0, **payload}

    def effects(self, job: Job) -> list[str]:
        file = self.home / "effects"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(job.id)]

    def ended(self, job: Job, seconds: float = 45.0) -> Job:
        until(lambda: self.ledger.job(job.id).state.terminal, seconds)
        return self.ledger.job(job.id)

    def running(self, job: Job) -> Job:
        """Wait until its body is under way."""
        until(lambda: self.ledger.job(job.id).stage == "sleep")
        now = self.ledger.job(job.id)
        assert now.state is JobState.RUNNING
        return now

    def runners(self, job: Job) -> dict[int, str]:
        return processes(f"workers.runner {job.id}")

    def slot(self, job: Job) -> int:
        """Process id of the pool process that has the job."""
        worker = self.ledger.job(job.id).worker
        assert worker is not None
        return int(worker.split(":")[1])


def parent_of(pid: int) -> int:
    told = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True)
    return int(told.stdout)


def open_ledger(home: Path) -> Ledger:
    return Ledger.open(SharedSettings(home=home).database_url.get_secret_value())


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(QUICK)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def service(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    said: list[str] = []
    others = descendants(os.getpid())  # such as the servers of other tests' process pools
    with Stack(home, cpu_workers=1, gpu_workers=2, say=said.append) as stack:
        ledger = open_ledger(home)
        yield Service(home, ledger, said, stack)
        ledger.close()
        started = descendants(os.getpid()) - others
    assert not [pid for pid in started if alive(pid)], "something outlived the service"
