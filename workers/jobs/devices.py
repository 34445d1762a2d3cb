"""How many processes a job has, and which of the host's GPUs it computes on.

Each slot of the worker sees one GPU, and slots may share one; a full-scale run may take several
for itself. Hence a lock per GPU, shared by the jobs of slots and exclusive for a run in several
processes. The system frees a lock when its process ends, however it does.
Limits: locks are not queued for, so that such a run waits while new jobs of slots come.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from mixlab.ledger.records import Job, JobKind, RunRole
from mixlab.recipes import Recipe
from workers.jobs.context import JobContext, Stopped
from workers.settings import WorkerSettings

STAGE = "wait for GPUs"
POLL_SECONDS = 0.5
# Fewer tokens of a step than that, and a process waits for the others more than it computes.
LEAST_TOKENS_PER_PROCESS = 4096


def processes_of(job: Job, settings: WorkerSettings) -> int:
    """How many processes share the job: more than one for full-scale runs alone.

    As many as there are GPUs, as far as a step has tokens for them, or as many as the settings
    say; each needs a sequence of every step.
    """
    if job.kind is not JobKind.TRAIN or job.payload.get("role") != RunRole.FULL:
        return 1
    recipe = Recipe.from_dict(job.payload["recipe"])
    most = min([recipe.batch_sequences, *(size for _, size in recipe.batch_stages)])
    if settings.training_processes is not None:
        return min(settings.training_processes, most)
    worthwhile = recipe.tokens_per_step // LEAST_TOKENS_PER_PROCESS
    return max(1, min(settings.gpus, worthwhile, most))


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
