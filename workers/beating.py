"""A worker says that it is alive, from the loop that takes its messages.

Every few seconds that loop asks a thread to write the worker's row, one for each queue. A loop
that hangs, or that has lost its broker and takes no messages, does not ask, and the row grows old;
a slow database holds up the thread alone. A worker that stops takes its row away.

The thread keeps no connection open between two beats, and no pool process is forked while it has
one: SQLite's locks belong to processes, and a fork in the middle of one would share them.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from celery import bootsteps
from sqlalchemy.exc import SQLAlchemyError

import mixlab
from mixlab.ledger.records import Queue
from workers.gpu_leases import taken
from workers.gpus import Gpu, installed
from workers.settings import WorkerSettings, open_ledger

log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 3.0  # a worker that stops doesn't wait longer for the database

_CONNECTED = threading.Lock()
os.register_at_fork(
    before=_CONNECTED.acquire,
    after_in_parent=_CONNECTED.release,
    after_in_child=_CONNECTED.release,
)


class Pulse:
    """A thread that writes a worker's rows when asked to."""

    def __init__(
        self, name: str, queues: Sequence[Queue], slots: int, settings: WorkerSettings
    ) -> None:
        self._ids = {queue: f"{name}/{queue}" for queue in queues}
        self._slots = slots
        self._settings = settings
        self._ledger = open_ledger(settings, patient=False)
        self._gpus: tuple[Gpu, ...] = ()
        self._busy: set[str] = set()
        self._asked = threading.Event()
        self._stopped = self._met = False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Ask for a beat; never waits."""
        self._asked.set()

    def stop(self) -> None:
        """Take the rows away."""
        self._stopped = True
        self._asked.set()
        self._thread.join(LAST_WORDS_SECONDS)

    def _run(self) -> None:
        try:
            self._gpus = installed(self._settings) if Queue.GPU in self._ids else ()
        except OSError as problem:
            log.warning("Which GPUs there are can't be told: %s", problem)
        while not self._stopped:
            self._asked.wait()
            self._asked.clear()
            self._try(self._forget if self._stopped else self._write)

    def _try(self, work: Callable[[], None]) -> None:
        with _CONNECTED:
            try:
                work()
            except (SQLAlchemyError, OSError) as problem:
                # Only the class, since a driver's text may hold the password of its URL.
                log.warning("No sign of life in the ledger: %s", type(problem).__name__)
            finally:
                self._ledger.close()

    def _write(self) -> None:
        if not self._met:
            self._forget()  # what an earlier process of the same name left
            self._met = True
        gpus = self._gpus_now()
        for queue, worker_id in self._ids.items():
            self._ledger.fleet.beat(
                worker_id, host=socket.gethostname(), queue=queue, slots=self._slots,
                version=mixlab.__version__, gpus=gpus if queue is Queue.GPU else (),
            )  # fmt: skip

    def _gpus_now(self) -> tuple[dict[str, Any], ...]:
        """The GPUs as JSON, with whether a job has them."""
        busy = taken(self._settings.home / "gpus", [gpu.key for gpu in self._gpus])
        self._busy = self._busy if busy is None else busy
        return tuple(asdict(gpu) | {"busy": gpu.key in self._busy} for gpu in self._gpus)

    def _forget(self) -> None:
        for worker_id in self._ids.values():
            self._ledger.fleet.forget(worker_id)


class Beating(bootsteps.StartStopStep):  # type: ignore[misc]
    """The step of Celery's consumer that asks for beats while messages are taken."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._settings = WorkerSettings()
        self._pulse: Pulse | None = None
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """The broker answers, for the first time or again."""
        if self._pulse is None:
            known = {queue.value for queue in Queue}
            names = [name for name in consumer.app.amqp.queues.consume_from if name in known]
            slots = consumer.controller.concurrency
            queues = [Queue(name) for name in names]
            self._pulse = Pulse(consumer.hostname, queues, slots, self._settings)
        self._pulse.beat()
        every = self._settings.pulse_seconds
        self._timer = consumer.timer.call_repeatedly(every, self._pulse.beat)

    def stop(self, consumer: Any) -> None:
        """The broker has gone, or the worker stops."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if consumer.blueprint.state != bootsteps.RUN:
            self.shutdown(consumer)

    def shutdown(self, _consumer: Any) -> None:
        """The worker stops."""
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None

    terminate = stop
