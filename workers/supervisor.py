"""Doing a job in a process of its own, and telling the ledger how that ended.

The supervisor holds the lease; the runner does the work in its own session, so
that stopping it stops whatever it started, and a crash takes nobody along. The
runner's standard input is a pipe from here: when the supervisor dies, however,
the pipe closes and the runner ends itself.

A training run that is stopped, since its worker is, has time for a checkpoint;
the lease is renewed meanwhile, so that nobody else takes the job up before it
is written. One that is cancelled has no use for it.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from mixlab.errors import LeaseLost
from mixlab.ledger import Heartbeat, Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from workers.jobs.devices import processes_of
from workers.runner import STOPPED
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)
TAIL_BYTES = 2000
MAKE_CHECKPOINTS = (JobKind.TRAIN, JobKind.TRAIN_PROXIES)


class Verdict(Enum):
    """Why watching a runner came to its end."""

    ENDED = auto()
    CANCEL = auto()
    LOST = auto()
    STOP = auto()


def supervise(
    job_id: str,
    ledger: Ledger,
    settings: WorkerSettings,
    *,
    stopping: Callable[[], bool],
    slot: int = 0,
) -> None:
    """Do a job if it is still queued. Returns when it has ended, parked or been given back."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    job = ledger.claim(job_id, worker, settings.lease_seconds)
    if job is None:
        return  # delivered twice, done already, or cancelled
    log.info("%s %s attempt %d", job.kind, job.id, job.attempt)
    try:
        runner = Runner.start(job, settings, slot)
    except OSError as problem:
        ledger.give_back(job.id, job.attempt, f"No process: {problem}", settings.max_failures)
        return
    with runner:
        lease = Lease(ledger, job, settings)
        verdict = _watch(runner, lease, settings, stopping)
        if verdict is not Verdict.ENDED:
            runner.terminate()
            _wait(runner, lease, settings.beat_seconds, patience(job, verdict, settings))
    _settle(ledger, job, settings, verdict, runner)


class Runner:
    """The process that does one attempt of a job, and everything that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.process = process
        self.log_file = log_file

    @classmethod
    def start(cls, job: Job, settings: WorkerSettings, slot: int) -> Self:
        """Start it. Raises OSError where the system has no process or file left."""
        path = settings.log_file(job.id, job.attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.runner", job.id, str(job.attempt)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment(job, settings, slot),
                start_new_session=True,
            )
        return cls(process, path)

    def ended_within(self, seconds: float) -> bool:
        """Wait so long at most; whether it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it if it still runs, and whatever it left behind in its session."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def terminate(self) -> None:
        """Ask it and all that it started to stop."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.process.pid, number)

    def ending(self) -> str:
        """How it ended, with the last of what it said."""
        code = self.process.returncode
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        with self.log_file.open("rb") as lines:
            lines.seek(max(0, self.log_file.stat().st_size - TAIL_BYTES))
            tail = lines.read().decode(errors="replace").strip()
        return f"The job's process ended with {how}{hint}.\n{tail}".strip()


def environment(job: Job, settings: WorkerSettings, slot: int) -> dict[str, str]:
    """What a runner's environment adds: its threads, and its GPU where there are several.

    A run in several processes sees all GPUs, and shares them out among these.
    """
    added = {"PYTHONUNBUFFERED": "1"}
    if job.queue is not Queue.GPU:
        return added
    if settings.threads is not None:
        added |= {"OMP_NUM_THREADS": str(settings.threads)}
    if settings.gpus > 1 and processes_of(job, settings) == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = visible.split(",") if visible else [str(n) for n in range(settings.gpus)]
        added |= {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]}
    return added


def patience(job: Job, verdict: Verdict, settings: WorkerSettings) -> float:
    """Seconds between SIGTERM and SIGKILL: time for a checkpoint where it will be of use."""
    if verdict is Verdict.STOP and job.kind in MAKE_CHECKPOINTS:
        return settings.checkpoint_grace_seconds
    return settings.kill_after_seconds


class Lease:
    """The hold on a job. A ledger that can't be asked counts as long as the lease lasts."""

    def __init__(self, ledger: Ledger, job: Job, settings: WorkerSettings) -> None:
        self._ledger = ledger
        self._job = job
        self._seconds = settings.lease_seconds
        self._renewed = time.monotonic()

    def beat(self) -> Heartbeat:
        """Lengthen the lease, and learn whether to go on."""
        began = time.monotonic()
        try:
            answer = self._ledger.heartbeat(self._job.id, self._job.attempt, self._seconds)
        except SQLAlchemyError as problem:
            log.warning("No heartbeat of %s: %s", self._job.id, type(problem).__name__)
            over = time.monotonic() - self._renewed > self._seconds
            return Heartbeat.LOST if over else Heartbeat.CONTINUE
        self._renewed = began
        return answer


def _watch(
    runner: Runner, lease: Lease, settings: WorkerSettings, stopping: Callable[[], bool]
) -> Verdict:
    verdicts = {Heartbeat.CANCEL: Verdict.CANCEL, Heartbeat.LOST: Verdict.LOST}
    while not stopping():
        if runner.ended_within(settings.beat_seconds):
            return Verdict.ENDED
        answer = lease.beat()
        if answer in verdicts:
            return verdicts[answer]
    return Verdict.STOP


def _wait(runner: Runner, lease: Lease, beat_seconds: float, patience_seconds: float) -> None:
    """Wait for its end, with the lease held; less long where nobody needs it any more."""
    deadline = time.monotonic() + patience_seconds
    while (left := deadline - time.monotonic()) > 0:
        if runner.ended_within(min(left, beat_seconds)) or lease.beat() is Heartbeat.LOST:
            return


def _settle(
    ledger: Ledger, job: Job, settings: WorkerSettings, verdict: Verdict, runner: Runner
) -> None:
    """Tell the ledger what the runner did not tell it itself."""
    now = ledger.job(job.id)
    if verdict is Verdict.LOST or now.state != JobState.RUNNING or now.attempt != job.attempt:
        return
    try:
        if verdict is Verdict.CANCEL:
            ledger.cancelled(job.id, job.attempt)
        elif verdict is Verdict.STOP or runner.process.returncode == STOPPED:
            ledger.give_back(job.id, job.attempt, "It was stopped, and can go on.", None)
        else:
            ledger.give_back(job.id, job.attempt, runner.ending(), settings.max_failures)
    except LeaseLost as problem:  # between the look and the write
        log.warning("%s", problem)
