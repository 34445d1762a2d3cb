"""What reading a corpus may take of the machine: memory, seconds, the size of what it writes.

Text comes from anywhere, and a file of a kilobyte can ask a parser for gigabytes. The readers'
own limits refuse what is known of that (mixlab/corpora/reading); these hold for the rest. The
kernel holds them, for this process alone, so that nothing else on the machine suffers. What a
parser in another language can't survive ends the process; a note of the file that was open then
tells the supervisor what to blame, instead of trying again and again.

Limits: memory is what is written to (RLIMIT_DATA), so mapped shards are free; held on Linux only.
"""

import errno
import json
import math
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mixlab.errors import LimitExceeded
from mixlab.ledger.records import Job, JobKind
from workers.settings import WorkerSettings

NOTE = "reading.json"
WALL_PER_CPU = 4  # a busy machine takes longer than its CPU seconds
# Signals that a process gets for what it did itself: the same bytes would do it again.
BY_ITSELF = frozenset(
    {
        signal.SIGXCPU, signal.SIGALRM, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS,
        signal.SIGFPE, signal.SIGILL, signal.SIGXFSZ,
    }
)  # fmt: skip
TOO_LONG = (
    "Reading this corpus took longer than its bytes may cost (MIXLAB_READ_SECONDS, "
    "MIXLAB_READ_BYTES_PER_SECOND); it was at {location!r} then."
)


class Note:
    """Which file is being read, in a file that outlives the process."""

    def __init__(self, folder: Path, job: Job) -> None:
        self._path = folder / NOTE
        self._about = {"job": job.id, "attempt": job.attempt}
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.write("")
        return self

    def write(self, location: str) -> None:
        """Note a file. Cheap, since there may be millions."""
        raw = json.dumps({**self._about, "file": location}).encode()
        os.pwrite(self._descriptor, raw, 0)
        os.ftruncate(self._descriptor, len(raw))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


@contextmanager
def bounded(
    job: Job, folder: Path, settings: WorkerSettings, stored_bytes: int
) -> Iterator[Callable[[str], None]]:
    """Read within limits; give each file's location to what this yields. Raises LimitExceeded."""
    location = ""

    def note(now: str) -> None:
        nonlocal location
        location = now
        written.write(now)

    seconds = int(settings.read_seconds + stored_bytes / settings.read_bytes_per_second)
    with Note(folder, job) as written, _limited(settings, seconds):
        try:
            yield note
        except MemoryError as error:
            raise LimitExceeded(_too_much(location, settings.memory_to_read)) from error
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise LimitExceeded(
                f"A file written while reading {location!r} grew beyond "
                f"{settings.read_file_bytes} bytes (MIXLAB_READ_FILE_BYTES)."
            ) from error


@contextmanager
def _limited(settings: WorkerSettings, seconds: int) -> Iterator[None]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_DATA: settings.memory_to_read,
        resource.RLIMIT_FSIZE: settings.read_file_bytes,
        # Up, since what was used so far would else be taken from the seconds that are promised.
        resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime) + seconds + 1,
        resource.RLIMIT_CORE: 0,  # a core file would hold every secret of the process
    }
    before = {limit: resource.getrlimit(limit) for limit in limits}
    try:
        for limit, most in limits.items():
            # The soft limit alone, which can be raised again afterwards.
            _, hard = before[limit]
            soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with suppress(ValueError, OSError):  # macOS refuses some
                resource.setrlimit(limit, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, WALL_PER_CPU * seconds + 1)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for limit, pair in before.items():
            with suppress(ValueError, OSError):
                resource.setrlimit(limit, pair)


@dataclass(frozen=True)
class Fault:
    """What was being read when the process ended, and whether that is surely to blame."""

    error: Mapping[str, Any]
    certain: bool


def fault_of(job: Job, settings: WorkerSettings, status: int | None) -> Fault | None:
    """The input's fault in the end of a process with that status; None where it wasn't reading."""
    if job.kind is not JobKind.MEASURE_CORPUS or status is None or status >= 0:
        return None
    try:
        note = json.loads(
            (settings.corpus_folder(str(job.payload["corpus_id"])) / NOTE).read_bytes()
        )
        if (note["job"], note["attempt"]) != (job.id, job.attempt):
            return None
        location = str(note["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if -status != signal.SIGKILL and -status not in BY_ITSELF:
        return None
    number = signal.Signals(-status)
    detail = _detail(number, location, settings.memory_to_read)
    error = {"type": LimitExceeded.slug(), "title": str(LimitExceeded.__doc__), "detail": detail}
    return Fault(error, number in BY_ITSELF)


def _detail(number: signal.Signals, location: str, most: int) -> str:
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return TOO_LONG.format(location=location)
    if number is signal.SIGKILL:
        ended = "was killed each time, as happens where memory runs out"
    else:
        ended = f"ended with {number.name}"
    return f"{location!r} can't be read: the process that read it {ended}. " + _way_out(most)


def _too_much(location: str, most: int) -> str:
    return f"Reading {location!r} takes more memory than allowed. " + _way_out(most)


def _way_out(most: int) -> str:
    return (
        f"It may have {most} bytes (MIXLAB_READ_MEMORY_BYTES): leave the file out, split it, or "
        "raise the limit if you trust it."
    )
