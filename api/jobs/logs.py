"""The log of a job's attempt, page by page.

Pages are counted in bytes, as files are, but end between characters: what would be cut in two
stays for the next page, until the attempt is over and no rest can come. Bytes that are no UTF-8
are shown as U+FFFD, so a page always moves on.
Limits: an attempt whose log lies on another host's disk, or was forgotten, has none here.
"""

import os
import stat
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Id, LedgerDep, ResourcesDep
from api.errors import RequestRefused
from api.jobs.schemas import LogView
from api.openapi import problems
from api.strict import StrictRoute
from mixlab.errors import UnknownJob
from mixlab.ledger.records import Job

LONGEST_CHARACTER = 4  # bytes, in UTF-8
DEFAULT_BYTES, MOST_BYTES = 64 * 1024, 1024 * 1024

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)

Attempt = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The last one if left out.")]
Offset = Annotated[int, Query(ge=0, le=2**62, description="`next_offset` of the page before.")]
Limit = Annotated[int, Query(ge=16, le=2**31 - 1, description=f"Bytes; at most {MOST_BYTES} come.")]


@router.get("/{job_id:id}/logs", operation_id="getJobLog", responses=problems(404, 422, UnknownJob))
def get_log(
    job_id: Id,
    ledger: LedgerDep,
    resources: ResourcesDep,
    attempt: Attempt = None,
    offset: Offset = 0,
    limit: Limit = DEFAULT_BYTES,
) -> LogView:
    """What an attempt of a job wrote, from a byte on; the rest comes with `next_offset`.

    Empty for a job that no worker has taken up yet, and at the end of a log.
    """
    job = ledger.job(job_id)
    which = job.attempt if attempt is None else attempt
    if which == 0:
        return _view(job, 0, offset, "", offset, 0)
    if which > job.attempt:
        raise _no_log(f"Job {job_id} has had {job.attempt} attempts, not {which}.")
    content, size = _read(
        resources.settings.log_file(job.id, which), offset, min(limit, MOST_BYTES)
    )
    over = job.state.terminal or which < job.attempt
    whole = content if over and offset + len(content) >= size else _up_to_a_character(content)
    text = whole.decode(errors="replace")
    return _view(job, which, offset, text, offset + len(whole), size)


def _view(job: Job, attempt: int, offset: int, text: str, next_offset: int, size: int) -> LogView:
    return LogView(
        job_id=job.id, attempt=attempt, offset=offset, next_offset=next_offset, size_bytes=size,
        text=text, finished=job.state.terminal or attempt < job.attempt,
    )  # fmt: skip


def _read(path: Path, offset: int, limit: int) -> tuple[bytes, int]:
    """Some bytes of a log, and how many it has. Raises RequestRefused where there is none."""
    try:
        # No link is followed, and a FIFO doesn't block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise _no_log("This attempt's log is not here: forgotten, or on another host.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _no_log("This attempt's log is no regular file.")
        return os.pread(descriptor, limit, offset), status.st_size
    finally:
        os.close(descriptor)


def _no_log(detail: str) -> RequestRefused:
    return RequestRefused(404, detail, slug="unknown-log", title="No log of that attempt")


def _up_to_a_character(content: bytes) -> bytes:
    """Without the beginning of a character at the end, which the next page has whole."""
    for length in range(1, min(LONGEST_CHARACTER, len(content) + 1)):
        first = content[-length]
        if first < 0x80:  # ASCII
            return content
        if first >= 0xC0:  # the first byte of a longer character
            whole = 2 + (first >= 0xE0) + (first >= 0xF0)
            return content[:-length] if length < whole else content
    return content
