"""The process that does one attempt of a job: `python -m workers.runner JOB ATTEMPT`.

It records the outcome in the ledger itself. If it ends without one, its
supervisor gives the job back: as it was where the exit status is STOPPED, with
a failure counted in any other case. Standard input is a pipe from the supervisor:
once that ends, this process and all that it started end too.
"""

import errno
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixlab.errors import LeaseLost, MixlabError
from mixlab.ledger.database import away
from mixlab.ledger.records import Job, JobKind, JobState
from workers import logs, tracing
from workers.jobs.context import Crashed, JobContext, Stopped
from workers.settings import WorkerSettings, open_ledger

log = logging.getLogger("workers.runner")

Body = Callable[[JobContext], Mapping[str, Any] | None]

# Names, imported when needed: a job that needs no torch shall not load it.
JOBS = {
    JobKind.MEASURE_CORPUS: "measure_corpus",
    JobKind.FIT_MIXTURE: "fit_mixture",
    JobKind.TRAIN: "train",
    JobKind.TRAIN_PROXIES: "train_proxies",
    JobKind.SCORE: "score",
    JobKind.MEASURE_ENTROPY: "measure_entropy",
}


PASSING_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
)  # fmt: skip

STOPPED = 75  # EX_TEMPFAIL: stopped by SIGTERM, ready to go on
CRASHED = 70  # EX_SOFTWARE


def main(arguments: Sequence[str]) -> int:
    """Do the attempt; the exit status is 0 where the ledger has its outcome."""
    job_id, attempt = arguments[0], int(arguments[1])
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    settings = WorkerSettings()
    logs.configure(settings.log_format, settings.log_level, job_id=job_id, attempt=attempt)
    ledger = open_ledger(settings)
    job = ledger.job(job_id)
    if job.state == JobState.RUNNING and job.attempt == attempt:
        with tracing.of_attempt(job, "runner"):
            return perform(JobContext(job, ledger, settings))
    return 0


def _end_with_supervisor() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def perform(context: JobContext) -> int:
    """Run the job's body and record its outcome; the process's exit status."""
    try:
        result = body(context.job.kind, context.settings)(context)
        if not context.parked:
            context.ledger.succeed(context.job.id, context.job.attempt, result or {})
    except (Stopped, Crashed) as problem:
        log.info("%s", problem)
        return STOPPED if isinstance(problem, Stopped) else CRASHED
    except LeaseLost as problem:
        log.warning("%s", problem)  # another attempt has the job: nothing may be written
    except MixlabError as problem:
        log.info("failed: %s", problem)
        title = (type(problem).__doc__ or type(problem).__name__).splitlines()[0]
        error = {"type": problem.slug(), "title": title, "detail": str(problem)}
        _fail(context, error, passing=problem.passing)
    except Exception as problem:  # a job's outermost door: whatever it met, the ledger says so
        log.exception("internal error")
        if away(problem):
            return CRASHED  # the ledger is gone for long: nothing can be written there
        _fail(context, internal_error(context.job, problem), passing=_may_pass(problem))
    return 0


def _may_pass(problem: Exception) -> bool:
    """Whether the system, not the job, is at fault: a network, a full disk, too many files."""
    if isinstance(problem, ConnectionError | TimeoutError):
        return True
    return isinstance(problem, OSError) and problem.errno in PASSING_ERRNOS


def body(kind: JobKind, settings: WorkerSettings) -> Body:
    """The function that does jobs of a kind."""
    found: Body = importlib.import_module(f"{settings.job_module_prefix}.{JOBS[kind]}").run
    return found


def internal_error(job: Job, problem: Exception) -> dict[str, str]:
    """An error of ours: its last line; the traceback stays in the attempt's log."""
    return {
        "type": "internal-error",
        "title": "A defect in mixlab, or in what it stands on.",
        "detail": "".join(traceback.format_exception_only(problem)).strip()
        + f" (traceback in the log {job.id}.{job.attempt}.log)",
    }


def _fail(context: JobContext, error: Mapping[str, Any], *, passing: bool) -> None:
    """Record it; what may pass is tried again, later each time, until it was met too often."""
    job, ledger = context.job, context.ledger
    try:
        if passing:
            retries = context.settings.max_retries
            ledger.give_back(job.id, job.attempt, str(error["detail"]), retries, error)
        else:
            ledger.fail(job.id, job.attempt, error)
    except LeaseLost as problem:
        log.warning("%s", problem)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
