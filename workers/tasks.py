"""The one Celery task: do the job with this id.

A worker that is told to stop must not make its jobs wait for a new lease: the
main process sets a byte that its pool's processes share, and each supervisor
sees it, stops its runner and gives the job back. A main process that is killed
can set nothing; that it is gone shows in the parent's process id.
"""

import logging
import mmap
import os
from functools import cache
from typing import Any

from celery.signals import worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from mixlab.ledger import Ledger
from workers.app import app
from workers.contract import TASK_RUN_JOB
from workers.outbox import BROKER_ERRORS, send_unsent
from workers.settings import WorkerSettings, open_ledger
from workers.supervisor import supervise

log = logging.getLogger(__name__)

# Anonymous shared memory rather than an Event: it is written within a signal handler, where a
# lock that the interrupted code holds would never be free.
_STOPPING = mmap.mmap(-1, 1)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    _STOPPING[0] = 1


@cache
def _ledger(_process_id: int) -> Ledger:
    """This process's own ledger: connections don't survive a fork."""
    return open_ledger(WorkerSettings())


@app.task(name=TASK_RUN_JOB)  # type: ignore[untyped-decorator]
def run_job(job_id: object) -> None:
    """Do a job if it is still queued, then send what became queued through it."""
    if not isinstance(job_id, str):  # a message is anything that the broker holds
        log.warning("A message without a job's id was thrown away.")
        return
    ledger, main_process = _ledger(os.getpid()), os.getppid()
    try:
        took_one = supervise(
            job_id,
            ledger,
            WorkerSettings(),
            stopping=lambda: bool(_STOPPING[0]) or os.getppid() != main_process,
        )
        # Thousands of messages may be of jobs that were cancelled since.
        if took_one:
            send_unsent(app, ledger)
    except (SQLAlchemyError, *BROKER_ERRORS) as problem:
        # Only the class, since a driver's text may hold the password of its URL.
        log.warning("The sweep will do what is left: %s", type(problem).__name__)
