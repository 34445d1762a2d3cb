"""Does what its payload says, and notes each completion in a file."""

import atexit
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixlab.errors import DomainTooSmall, FetchFailed, InUse
from workers.jobs.context import JobContext, Stopped


def run(context: JobContext) -> Mapping[str, Any]:
    ACTS[context.job.payload["act"]](context)
    with Path(context.job.payload["effects"]).open("a") as effects:
        effects.write(f"{context.job.id} {context.job.attempt}\n")
    return {"href": f"/trainings/{context.job.id}"}


def _sleep(context: JobContext) -> None:
    """Sleeps, unless the payload says that later attempts shall not."""
    seconds = float(context.job.payload["seconds"])
    if context.job.attempt > int(context.job.payload.get("slow_attempts", 1_000)):
        seconds = 0.0
    began = time.monotonic()
    while (gone := time.monotonic() - began) < seconds:
        context.progress("sleep", gone / seconds)
        time.sleep(0.02)


def _linger(context: JobContext) -> None:
    """Ends, but its process goes on for a while after the outcome is written."""
    atexit.register(time.sleep, float(context.job.payload["seconds"]))


def _with_child(context: JobContext) -> None:
    """Starts a process that ignores SIGTERM, as a data loader may, and goes on."""
    script = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen(["python3", "-c", script])
    Path(context.job.payload["child"]).write_text(str(child.pid))
    _sleep(context)


def _checkpoint(context: JobContext) -> None:
    """Takes longer over its checkpoint than a lease lasts; the next attempt finds it."""
    made = Path(context.job.payload["checkpoint"])
    with context.stoppable() as stop:
        while not made.exists():
            context.progress("sleep", 0.5)
            time.sleep(0.02)
            if stop():
                time.sleep(3)
                made.touch()
                raise Stopped("made a checkpoint")


def _crash(context: JobContext) -> None:
    """Dies like one that the kernel killed for memory, so often."""
    if context.job.attempt <= int(context.job.payload["times"]):
        print("about to use too much memory", flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGKILL)


def _stubborn(context: JobContext) -> None:
    """Does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _sleep(context)


def _visible(context: JobContext) -> None:
    """Writes down which GPUs it sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    Path(context.job.payload["visible"]).write_text(seen)


def _occupy(context: JobContext) -> None:
    """Writes down from when to when it had which GPUs."""
    for what in ("has", "gives"):
        with Path(context.job.payload["log"]).open("a") as log:
            seen = os.environ["CUDA_VISIBLE_DEVICES"]
            log.write(f"{time.monotonic()} {context.job.id}.{context.job.attempt} {what} {seen}\n")
        if what == "has":
            _sleep(context)


def _meet(context: JobContext) -> None:
    """Meets what may pass, so often."""
    if context.job.attempt <= int(context.job.payload.get("times", 99)):
        raise MET[context.job.payload["met"]]


def _refuse(_context: JobContext) -> None:
    raise DomainTooSmall("Domain 'law' has 12 tokens; one sequence needs 129.")


def _break(_context: JobContext) -> None:
    _ = 1 / 0


def _leave(_context: JobContext) -> None:
    os._exit(0)


MET = {
    "fetch-failed": FetchFailed("apt-get says: Temporary failure resolving 'deb.debian.org'"),
    "in-use": InUse("Another process trains in /home/runs/run_1."),
    "disk-full": OSError(errno.ENOSPC, "No space left on device"),
    "network": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "denied": PermissionError(errno.EACCES, "Permission denied"),
}

ACTS: dict[str, Callable[[JobContext], None]] = {
    "sleep": _sleep,
    "linger": _linger,
    "with_child": _with_child,
    "checkpoint": _checkpoint,
    "crash": _crash,
    "refuse": _refuse,
    "break": _break,
    "leave": _leave,
    "stubborn": _stubborn,
    "visible": _visible,
    "occupy": _occupy,
    "meet": _meet,
}
