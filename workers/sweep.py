"""The sweep: `python -m workers.sweep` keeps jobs moving that nobody else would.

It takes back the jobs of workers that died, and sends the ids of queued jobs
that the broker doesn't have: those never sent, because it was down, and those
that it has lost. A job counts as lost if it was sent a while ago and its queue
is empty. While messages wait none is missed, since any of them has a worker take
what is most urgent; to send more would pile up copies until the broker has no
memory left. Once an hour it deletes what is too old
(retention.py). Several sweeps do no harm.
"""

import logging
import signal
import threading
import time
from types import FrameType

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from mixlab.ledger import Ledger
from workers import logs
from workers.app import app
from workers.outbox import BROKER_ERRORS, empty_queues, send_unsent
from workers.retention import retain
from workers.settings import WorkerSettings, open_ledger

log = logging.getLogger("workers.sweep")

RETENTION_SECONDS = 3600.0


def sweep(ledger: Ledger, celery: Celery, settings: WorkerSettings) -> None:
    """One round. Raises SQLAlchemyError or one of BROKER_ERRORS where one of the two is away."""
    for job in ledger.take_back_expired(settings.max_failures):
        log.warning("took back %s: it is %s after %d failures", job.id, job.state, job.failures)
    sent = send_unsent(celery, ledger)
    after = settings.resend_after_seconds
    for queue in empty_queues(celery):
        sent += send_unsent(celery, ledger, resend_after_seconds=after, queue=queue)
    if sent:
        log.info("sent %d jobs", sent)


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    settings = WorkerSettings()
    logs.configure(settings.log_format, settings.log_level)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    ledger = open_ledger(settings, patient=False)  # SIGTERM shall not wait for it
    retention_at, retaining = time.monotonic(), threading.Thread()
    while not stop.is_set():
        try:
            sweep(ledger, app, settings)
            settings.sweep_file.touch()
            if time.monotonic() >= retention_at and not retaining.is_alive():
                retention_at = time.monotonic() + RETENTION_SECONDS
                # Beside the sweep: much that is old, or a slow disk, holds up no lost job.
                retaining = threading.Thread(target=_retain, args=(ledger, settings), daemon=True)
                retaining.start()
        except (SQLAlchemyError, *BROKER_ERRORS) as problem:  # OSError is one of these
            # Only the class, since a driver's text may hold the password of its URL.
            log.warning("next round in %g s: %s", settings.sweep_seconds, type(problem).__name__)
        stop.wait(settings.sweep_seconds)


def _retain(ledger: Ledger, settings: WorkerSettings) -> None:
    try:
        retain(ledger, settings)
    except (SQLAlchemyError, OSError) as problem:
        log.warning("what is old stays for now: %s", type(problem).__name__)


if __name__ == "__main__":
    main()
