"""Doing a job in a process of its own, and telling the ledger how that ended.

The supervisor holds the lease; the runner does the work in its own session, so
that stopping it stops whatever it started, and a crash takes nobody along. The
runner's standard input is a pipe from here: when the supervisor dies, however,
the pipe closes and the runner ends itself.

A training run that is stopped, since its worker is or it shall pause, has time
for a checkpoint; the lease is renewed meanwhile, so that nobody else takes the
job up before it is written. One that is cancelled has no use for it.

A job of the gpu queue waits until it has its GPUs, and its process sees those
alone. The process inherits their locks: should the supervisor die, they are
free once the runner has ended too.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from mixlab.errors import InvalidRecipe, LeaseLost, UnknownJob
from mixlab.ledger import Heartbeat, Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from workers import logs, tracing
from workers.gpu_leases import GpuLease
from workers.gpus import VISIBLE, installed
from workers.jobs.bounds import Fault, fault_of
from workers.jobs.devices import processes_of
from workers.runner import STOPPED
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)
TAIL_BYTES = 2000
MAKE_CHECKPOINTS = (JobKind.TRAIN, JobKind.TRAIN_PROXIES)
GPU_STAGE = "wait for GPUs"
GPU_POLL_SECONDS = 0.2
NICENESS = 10


class Verdict(Enum):
    """Why watching a runner came to its end."""

    ENDED = auto()
    CANCEL = auto()
    LOST = auto()
    PAUSE = auto()
    STOP = auto()


VERDICTS = {
    Heartbeat.CANCEL: Verdict.CANCEL,
    Heartbeat.PAUSE: Verdict.PAUSE,
    Heartbeat.LOST: Verdict.LOST,
}


def supervise(
    job_id: str,
    ledger: Ledger,
    settings: WorkerSettings,
    *,
    stopping: Callable[[], bool],
) -> bool:
    """Do what is most urgent in that job's queue, be it another job; whether there was any.

    A message says that a queue has something, and each queued job has one; what is taken is
    the ledger's choice, by priority and age. Returns when the job has ended, parked or been given
    back, or at once where nothing is due.
    """
    try:
        job = _claimed(job_id, ledger, settings)
    except OSError as problem:
        log.warning("No job is taken, the sweep sends it to another worker: %s", problem)
        return False
    if job is None:
        return False  # delivered twice, done already, cancelled, or paused
    spoken_of = logs.about(job_id=job.id, attempt=job.attempt, worker=job.worker)
    with spoken_of, tracing.of_attempt(job, "worker"):
        log.info("%s attempt %d", job.kind, job.attempt)
        try:
            verdict, ending, fault = _attempted(ledger, job, settings, stopping)
        except OSError as problem:
            _postpone(ledger, job, settings, f"No process: {problem}")
            return True
        _settle(ledger, job, settings, verdict, ending, fault)
        log.info("attempt %d is over: %s", job.attempt, verdict.name.lower())
        tracing.note(**{"mixlab.verdict": verdict.name.lower()})
    return True


def _claimed(job_id: str, ledger: Ledger, settings: WorkerSettings) -> Job | None:
    """The most urgent job. Raises OSError, with none claimed, where this host's GPUs don't answer.

    Claimed first, one job after the other would fail here, faster than healthy hosts take them;
    and a driver that is slow to answer at first would have the lease run out meanwhile.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        queue = ledger.job(job_id).queue
    except UnknownJob:  # forgotten since
        return None
    if queue is Queue.GPU:
        installed(settings)
    while (due := ledger.due(queue)) is not None:
        job = ledger.claim(due, worker, settings.lease_seconds)
        if job is not None:
            return job
    return None


def _attempted(
    ledger: Ledger, job: Job, settings: WorkerSettings, stopping: Callable[[], bool]
) -> tuple[Verdict, str, Fault | None]:
    """Do the attempt; why it ended, how its process did, and what it was reading then.

    Raises OSError where it has no process.
    """
    lease = Lease(ledger, job, settings)
    uuids = {gpu.key: gpu.uuid for gpu in installed(settings)} if job.queue is Queue.GPU else {}
    with GpuLease(settings.home / "gpus", list(uuids), _gpus_of(job, settings)) as gpus:
        verdict = _wait_for_gpus(gpus, ledger, lease, job, settings, stopping)
        if verdict is not None:
            return verdict, "", None
        visible = [uuids[key] for key in gpus.held]
        with Runner.start(job, settings, visible, keep=gpus.descriptors) as runner:
            verdict = _watch(runner, lease, settings, stopping)
            if verdict is not Verdict.ENDED:
                runner.terminate()
                _wait(runner, lease, settings, patience(job, verdict, settings))
        if verdict is Verdict.ENDED and runner.process.returncode == STOPPED:
            verdict = Verdict.STOP
        return verdict, runner.ending(), fault_of(job, settings, runner.process.returncode)


def _gpus_of(job: Job, settings: WorkerSettings) -> int:
    try:
        return processes_of(job, settings)
    except InvalidRecipe:  # of another version, such as after an upgrade; its body says so
        return 1


class Runner:
    """The process that does one attempt of a job, and everything that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.process = process
        self.log_file = log_file

    @classmethod
    def start(
        cls, job: Job, settings: WorkerSettings, gpus: Sequence[str], keep: Sequence[int] = ()
    ) -> Self:
        """Start it, with some descriptors inherited.

        Raises OSError where the system has no process or file left.
        """
        path = settings.log_file(job.id, job.attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.runner", job.id, str(job.attempt)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment(job, settings, gpus) | tracing.carried(),
                start_new_session=True,
                pass_fds=keep,
            )
        _give_way(process.pid)
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
        how = f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        tail = ""
        with suppress(OSError), self.log_file.open("rb") as lines:
            lines.seek(max(0, self.log_file.stat().st_size - TAIL_BYTES))
            tail = lines.read().decode(errors="replace").strip()
        return f"The job's process ended with {how}{hint}.\n{logs.redacted(tail)}".strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time ones have none
        return str(number)


def _give_way(process_id: int) -> None:
    """Let the API, the broker and heartbeats, which need little, go before a job's process.

    Linux may group processes by session; niceness then counts within the group only, and
    the group has its own.
    """
    with suppress(OSError):  # a courtesy: it may have ended, or the system has no such groups
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, process_id, own + NICENESS)
        Path(f"/proc/{process_id}/autogroup").write_text(str(NICENESS))


def environment(job: Job, settings: WorkerSettings, gpus: Sequence[str]) -> dict[str, str]:
    """What a runner's environment adds: its threads, and the GPUs that it was given."""
    added = {"PYTHONUNBUFFERED": "1"}
    if job.queue is not Queue.GPU:
        return added
    if settings.threads is not None:
        added |= {"OMP_NUM_THREADS": str(settings.threads)}
    if gpus:
        added |= {VISIBLE: ",".join(gpus)}
    return added


def patience(job: Job, verdict: Verdict, settings: WorkerSettings) -> float:
    """Seconds between SIGTERM and SIGKILL: time for a checkpoint where it will be of use."""
    if verdict in (Verdict.STOP, Verdict.PAUSE) and job.kind in MAKE_CHECKPOINTS:
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

    def is_spent(self) -> bool:
        """Whether the lease is over since the runner has told the ledger this attempt's outcome."""
        try:
            now = self._ledger.job(self._job.id)
        except SQLAlchemyError:
            return False
        told = now.state.terminal or now.state is JobState.WAITING
        return told and now.attempt == self._job.attempt


def _wait_for_gpus(
    gpus: GpuLease,
    ledger: Ledger,
    lease: Lease,
    job: Job,
    settings: WorkerSettings,
    stopping: Callable[[], bool],
) -> Verdict | None:
    """Wait until the job has its GPUs, and say so; why not, where something else comes first."""
    beat_at = time.monotonic() + settings.beat_seconds
    told = False
    while not gpus.take():
        if stopping():
            return Verdict.STOP
        if not told:
            told = True
            try:
                ledger.progress(job.id, job.attempt, stage=GPU_STAGE, fraction=job.fraction)
            except LeaseLost:
                return Verdict.LOST
        if time.monotonic() >= beat_at:
            beat_at = time.monotonic() + settings.beat_seconds
            answer = lease.beat()
            if answer in VERDICTS:
                return VERDICTS[answer]
        time.sleep(GPU_POLL_SECONDS)
    return None


def _watch(
    runner: Runner, lease: Lease, settings: WorkerSettings, stopping: Callable[[], bool]
) -> Verdict:
    while not stopping():
        if runner.ended_within(settings.beat_seconds):
            return Verdict.ENDED
        answer = lease.beat()
        if answer is Heartbeat.LOST and lease.is_spent():
            runner.ended_within(settings.kill_after_seconds)
            return Verdict.ENDED
        if answer in VERDICTS:
            return VERDICTS[answer]
    return Verdict.STOP


def _wait(runner: Runner, lease: Lease, settings: WorkerSettings, patience_seconds: float) -> None:
    """Wait for its end, with the lease held; less long where nobody needs it any more."""
    deadline = time.monotonic() + patience_seconds
    while (left := deadline - time.monotonic()) > 0:
        if runner.ended_within(min(left, settings.beat_seconds)):
            return
        answer = lease.beat()
        if answer is Heartbeat.LOST:
            return
        if answer is Heartbeat.CANCEL:  # its checkpoint is of no use any more
            deadline = min(deadline, time.monotonic() + settings.kill_after_seconds)


def _postpone(ledger: Ledger, job: Job, settings: WorkerSettings, why: str) -> None:
    """Give back a job that could not be begun: the host has no process, file or room left."""
    log.warning("%s", why)
    title = "The job's process could not be started."
    error = {"type": "worker-crashed", "title": title, "detail": why}
    try:
        ledger.give_back(job.id, job.attempt, why, settings.max_retries, error)
    except LeaseLost as problem:
        log.warning("%s", problem)


def _settle(
    ledger: Ledger,
    job: Job,
    settings: WorkerSettings,
    verdict: Verdict,
    ending: str,
    fault: Fault | None,
) -> None:
    """Tell the ledger what the runner did not tell it itself."""
    now = ledger.job(job.id)
    if verdict is Verdict.LOST or now.state != JobState.RUNNING or now.attempt != job.attempt:
        return
    try:
        if verdict is Verdict.CANCEL:
            ledger.cancelled(job.id, job.attempt)
        elif verdict is Verdict.PAUSE:
            ledger.give_back(job.id, job.attempt, "A pause was asked for.", None)
        elif verdict is Verdict.STOP:
            ledger.give_back(job.id, job.attempt, "It was stopped, and can go on.", None)
        elif fault is not None and fault.certain:
            log.warning("ended by what it read: %s", ending)
            ledger.fail(job.id, job.attempt, fault.error)
        else:
            error = None if fault is None else fault.error
            ledger.give_back(job.id, job.attempt, ending, settings.max_failures, error)
    except LeaseLost as problem:  # between the look and the write
        log.warning("%s", problem)
