"""Which of the host's GPUs a job computes on, held by locks on files.

Each slot of the worker sees one GPU, and slots may share one; a full-scale run takes several for
itself. Hence a lock per GPU, shared by the jobs of slots and exclusive for a full-scale run. The
system frees a lock when its process ends, however it does.
Limits: locks are not queued for, so that a full-scale run waits while new jobs of slots come.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from workers.jobs.context import JobContext, Stopped

STAGE = "wait for GPUs"
POLL_SECONDS = 0.5


@contextmanager
def gpus_of_slot(context: JobContext, stop: Callable[[], bool]) -> Iterator[None]:
    """Compute on the slot's GPU, beside other slots that see it. Raises Stopped."""
    with _held(context, _visible(context), fcntl.LOCK_SH, stop):
        yield


@contextmanager
def gpus_alone(context: JobContext, count: int, stop: Callable[[], bool]) -> Iterator[None]:
    """Compute on the first `count` GPUs that are visible, beside nobody. Raises Stopped."""
    with _held(context, _visible(context)[:count], fcntl.LOCK_EX, stop):
        yield


def _visible(context: JobContext) -> list[str]:
    """The names of the GPUs that this process sees, in order."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    found = told.split(",") if told else [str(n) for n in range(context.settings.gpus)]
    return found if context.settings.gpus else []


@contextmanager
def _held(
    context: JobContext, names: Sequence[str], kind: int, stop: Callable[[], bool]
) -> Iterator[None]:
    folder = context.settings.home / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        # In one order, so that two jobs never wait for each other.
        for name in sorted(names):
            # Hosts may share a home folder, but not their GPUs.
            path = folder / f"{socket.gethostname()}-{name.replace('/', '_')}.lock"
            _wait(context, files.enter_context(path.open("w")), kind, stop)
        yield


def _wait(context: JobContext, lock: IO[str], kind: int, stop: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            context.progress(STAGE, 0.0)
            if stop():
                raise Stopped("Stopped by SIGTERM while it waited for GPUs.") from None
            time.sleep(POLL_SECONDS)
        else:
            return
