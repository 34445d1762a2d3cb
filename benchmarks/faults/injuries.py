"""Faults, each a function that hurts a cluster and lets it heal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from celery import Celery
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.faults.cluster import Cluster, restart_postgres
from cli.up import worker
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobState, Queue
from tests.ledger.faking import faketime
from workers.contract import TASK_RUN_JOB
from workers.outbox import BROKER_ERRORS

LOCKED_SECONDS = 4.0
FULL_SECONDS = 4.0
WORKERS = ("worker-cpu", "worker-gpu")
IDLE_SECONDS = 60.0  # without a job in any worker, after which none is awaited
RECOVERY_SECONDS = 120.0  # after which a job of a killed worker isn't awaited any more


@dataclass
class Hurt:
    """What the faults are given, and what they note."""

    cluster: Cluster
    ledger: Ledger
    chance: Random
    lease_seconds: float
    # (job, attempt, when): what ran in a worker as it was killed.
    orphaned: list[tuple[str, int, float]] = field(default_factory=list)

    def note_orphans(self, holders: set[int]) -> None:
        """Remember the jobs whose supervisors are about to die."""
        for job in self.ledger.jobs(state=JobState.RUNNING, limit=1000):
            if job.worker and int(job.worker.rpartition(":")[2]) in holders:
                self.orphaned.append((job.id, job.attempt, time.time()))


def kill_worker(hurt: Hurt) -> None:
    """SIGKILL of a worker's main process."""
    name = hurt.chance.choice(WORKERS)
    hurt.note_orphans(_children(hurt.cluster.process(name)))
    hurt.cluster.kill(name)


def kill_busy_worker(hurt: Hurt) -> None:
    """SIGKILL of a worker's main process while it does a job; ends when that runs again."""
    before, deadline = len(hurt.orphaned), time.monotonic() + IDLE_SECONDS
    while len(hurt.orphaned) == before:
        if time.monotonic() > deadline:
            raise NotHere(f"no worker did anything for {IDLE_SECONDS:g} s")
        time.sleep(0.05)
        name = hurt.chance.choice(WORKERS)
        hurt.note_orphans(_children(hurt.cluster.process(name)))
    hurt.cluster.kill(name)
    deadline = time.monotonic() + RECOVERY_SECONDS
    for job_id, attempt, _ in hurt.orphaned[before:]:
        while time.monotonic() < deadline:
            job = hurt.ledger.job(job_id)
            if job.attempt > attempt or job.state.terminal:
                break
            time.sleep(0.2)


def kill_slot(hurt: Hurt) -> None:
    """SIGKILL of the pool process that supervises a job."""
    busy = _children(hurt.cluster.process(hurt.chance.choice(WORKERS)))
    if busy:
        one = hurt.chance.choice(sorted(busy))
        hurt.note_orphans({one})
        _signal(one, signal.SIGKILL)


def kill_runner(hurt: Hurt) -> None:
    """SIGKILL of the process that does a job, as for want of memory."""
    runners = [pid for name in WORKERS for pid in _descendants(hurt.cluster.process(name))]
    runners = [pid for pid in runners if b"workers.runner" in _command(pid)]
    if runners:
        _signal(hurt.chance.choice(runners), signal.SIGKILL)


def terminate_worker(hurt: Hurt) -> None:
    """SIGTERM of a worker, as a new version does."""
    hurt.cluster.kill(hurt.chance.choice(WORKERS), signal.SIGTERM)


def stop_worker(hurt: Hurt) -> None:
    """SIGSTOP of a worker and its jobs for longer than a lease, then SIGCONT."""
    root = hurt.cluster.process(hurt.chance.choice(WORKERS))
    stopped = {root, *_descendants(root)}
    for pid in stopped:
        _signal(pid, signal.SIGSTOP)
    time.sleep(hurt.lease_seconds * 1.5)
    for pid in stopped:
        _signal(pid, signal.SIGCONT)


def kill_broker(hurt: Hurt) -> None:
    """SIGKILL of the broker; its file stays."""
    hurt.cluster.kill("broker")


def lose_broker(hurt: Hurt) -> None:
    """SIGKILL of the broker, and all that it knew is gone."""
    hurt.cluster.hold("broker")
    hurt.cluster.kill("broker")
    for each in (hurt.cluster.home / "broker").iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each.suffix != ".conf":
            each.unlink()
    hurt.cluster.release("broker")


def kill_api(hurt: Hurt) -> None:
    """SIGKILL of the API."""
    hurt.cluster.kill("api")


def kill_sweep(hurt: Hurt) -> None:
    """SIGKILL of the sweep."""
    hurt.cluster.kill("sweep")


def cut_database(hurt: Hurt) -> None:
    """Every connection is dropped; a SQLite file is locked by somebody else for a while."""
    engine = create_engine(hurt.cluster.database_url)
    with suppress(SQLAlchemyError), engine.connect() as db:
        if engine.dialect.name == "postgresql":
            others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
            db.execute(
                text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            )
        else:
            db.exec_driver_sql("PRAGMA busy_timeout=20000")
            db.exec_driver_sql("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_SECONDS)
            db.exec_driver_sql("ROLLBACK")
    engine.dispose()


def restart_database(hurt: Hurt) -> None:
    """A crash of the database's server, and its recovery."""
    if hurt.cluster.database_url.startswith("postgresql"):
        restart_postgres(hurt.cluster.database_url)
    else:
        cut_database(hurt)


def deliver_twice(hurt: Hurt) -> None:
    """Two more messages for every job that is not over, and one for some that are."""
    app = Celery(broker=hurt.cluster.broker.url, set_as_current=False)
    options = {"global_keyprefix": "mixlab:", "socket_timeout": 3, "socket_connect_timeout": 3}
    app.conf.update(broker_transport_options=options, task_publish_retry=False)
    with suppress(*BROKER_ERRORS):
        for job in hurt.ledger.jobs(limit=60):
            for _ in range(1 if job.state.terminal else 2):
                app.send_task(
                    TASK_RUN_JOB, args=(job.id,), queue=job.queue.value, ignore_result=True
                )
    app.close()


def skew_clock(hurt: Hurt) -> None:
    """A second worker, whose host's clock is an hour off, works beside and is killed."""
    if hurt.cluster.database_url.startswith("sqlite"):
        raise NotHere("a SQLite file belongs to one host, which has one clock")
    library = faketime()
    if library is None:
        raise NotHere("libfaketime is not installed")
    hours = hurt.chance.choice(("-1h", "+1h"))
    name = f"skewed{time.monotonic_ns()}"
    command = [*worker(Queue.GPU, 1), "-n", f"{name}@%h"]
    hurt.cluster.add(name, command, {"LD_PRELOAD": str(library), "FAKETIME": hours})
    time.sleep(8)
    hurt.note_orphans(_children(hurt.cluster.process(name)))
    hurt.cluster.kill(name)


def restart_everything(hurt: Hurt) -> None:
    """A power cut."""
    for name in ("api", "sweep", *WORKERS, "broker"):
        if name in WORKERS:
            hurt.note_orphans(_children(hurt.cluster.process(name)))
        hurt.cluster.kill(name)
    if hurt.cluster.database_url.startswith("postgresql"):
        restart_postgres(hurt.cluster.database_url)


def fill_disk(hurt: Hurt) -> None:
    """The home folder's file system has no byte left for a while."""
    if not os.path.ismount(hurt.cluster.home):
        raise NotHere("the home folder could not be given a file system of its own")
    ballast = hurt.cluster.home / "ballast"
    try:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(bytes(512)):
                pass
        time.sleep(FULL_SECONDS)
    finally:
        ballast.unlink(missing_ok=True)


class NotHere(Exception):
    """This machine can't bring that fault about."""


Injury = Callable[[Hurt], None]

INJURIES: tuple[Injury, ...] = (
    kill_worker, kill_slot, kill_runner, terminate_worker, stop_worker, kill_broker, lose_broker,
    kill_api, kill_sweep, cut_database, restart_database, deliver_twice, skew_clock,
    restart_everything, fill_disk,
)  # fmt: skip


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _parents() -> dict[int, int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    return {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}


def _children(root: int) -> set[int]:
    return {pid for pid, parent in _parents().items() if parent == root}


def _descendants(root: int) -> set[int]:
    parents, found, frontier = _parents(), set[int](), {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def _command(pid: int) -> bytes:
    listed = subprocess.run(
        ["ps", "-o", "args=", "-ww", "-p", str(pid)], capture_output=True, check=False
    )
    return listed.stdout


def mounted(folder: Path, megabytes: int) -> bool:
    """Give a folder a small file system of its own, where this process may."""
    if sys.platform != "linux" or os.getuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "mixlab-faults", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmounted(folder: Path) -> None:
    """Take it away again."""
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
