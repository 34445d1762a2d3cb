"""What a job's body is given: the job, the ledger, the settings, and how to say how far it is."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, Queue
from workers.settings import WorkerSettings

PROGRESS_SECONDS = 0.5  # between two writes of the same stage


class Stopped(Exception):
    """A body was told to stop, and has left all that the next attempt needs to go on."""


class Crashed(Exception):
    """Processes that a body started died without an outcome: worth another attempt."""


class JobContext:
    """One attempt of a job. `parked` is set once it waits for its children."""

    def __init__(self, job: Job, ledger: Ledger, settings: WorkerSettings) -> None:
        self.job = job
        self.ledger = ledger
        self.settings = settings
        self.parked = False
        self._stage: str | None = None
        self._written = 0.0

    def progress(self, stage: str, fraction: float, eta_seconds: float | None = None) -> None:
        """Say how far the job is, 0 to 1; written at each new stage and twice a second.

        Raises LeaseLost where another attempt has the job: let it pass.
        """
        now = time.monotonic()
        if stage == self._stage and now - self._written < PROGRESS_SECONDS:
            return
        self._stage, self._written = stage, now
        self.ledger.progress(
            self.job.id, self.job.attempt, stage=stage, fraction=fraction, eta_seconds=eta_seconds
        )

    def submit_child(
        self, kind: JobKind, payload: Mapping[str, Any], *, queue: Queue, key: str
    ) -> Job:
        """Queue a child job; the same key again gives the first, in whatever state it is."""
        return self.ledger.submit(
            kind,
            payload,
            queue=queue,
            parent_id=self.job.id,
            key=key,
            parent_attempt=self.job.attempt,
        )

    def wait_for_children(self) -> None:
        """Park the job until its last child has ended; the body must return None after it."""
        self.ledger.wait_for_children(self.job.id, self.job.attempt)
        self.parked = True

    @contextmanager
    def stoppable(self) -> Iterator[Callable[[], bool]]:
        """Whether SIGTERM came, which in here does not end the process.

        The body then makes a checkpoint and raises Stopped. Signals reach the main thread alone.
        """
        asked = threading.Event()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            asked.set()

        before = signal.signal(signal.SIGTERM, on_signal)
        try:
            yield asked.is_set
        finally:
            signal.signal(signal.SIGTERM, before)
