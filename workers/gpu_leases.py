"""Giving each GPU of a host to one job at a time, in the order in which jobs asked.

    home/gpus/GPU-….lock    locked by whoever holds that GPU
    home/gpus/line/0…7      a place in the line: which GPUs would do, locked by who stands there
    home/gpus/line.lock     the last place given; locked while places or GPUs change hands

The locks are the system's (flock): they hold between all processes and containers of a host that
share the folder, and end with their holder, however it ends. Nobody takes a GPU while somebody who
came earlier waits for it. So a run that needs several gathers them as they become free, no stream
of others can starve it, and since only the first in the line gathers, no two runs wait for each
other.
Limits: while a run gathers, GPUs that it has already lie idle. The line goes by arrival, not by
priority, which has its say before, when jobs are claimed.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

# Whoever waits looks several times a second; one that was halted must not hold up the line.
SILENT_SECONDS = 10.0


class GpuLease:
    """A place in the line for `count` of some GPUs, then these GPUs. Left as a context manager."""

    def __init__(self, folder: Path, names: Sequence[str], count: int) -> None:
        self._folder = folder
        self._names = tuple(names)
        self._count = min(count, len(self._names))
        self._locks: dict[str, int] = {}
        self._place: tuple[Path, int] | None = None

    @property
    def held(self) -> tuple[str, ...]:
        """The GPUs so far, in the order in which they were named."""
        return tuple(name for name in self._names if name in self._locks)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Of the locks: a process that inherits them holds the GPUs along with this one."""
        return tuple(self._locks.values())

    def take(self) -> bool:
        """Whether all are held now; to be asked again and again until they are."""
        if len(self._locks) == self._count:
            return True
        (self._folder / "line").mkdir(parents=True, exist_ok=True)
        with _moment(self._folder / "line.lock") as line:
            if line is None:
                return False
            if not self._is_behind(self._kept_place(line)):
                self._take_free()
            if len(self._locks) < self._count:
                return False
            self._leave_line()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_line()
        self._let_go()

    def _let_go(self) -> None:
        for lock in self._locks.values():
            os.close(lock)
        self._locks.clear()

    def _kept_place(self, line: int) -> Path:
        """The place in the line, at its end where this is new; and say that one is still there."""
        if self._place is not None:
            with suppress(FileNotFoundError):
                os.utime(self._place[0])
                return self._place[0]
            # Was taken for dead, after a halt. What it gathered goes too: whoever is first in the
            # line now may wait for it, and this one behind would wait for the first for ever.
            self._leave_line()
            self._let_go()
        path = self._folder / "line" / _next_number(line, _places(self._folder))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._place = (path, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(self._names).encode())
        return path

    def _is_behind(self, own: Path) -> bool:
        """Whether somebody who came earlier waits for one of these GPUs."""
        # Both times are the file system's, whose clock need not be this host's (NFS).
        now = own.stat().st_mtime
        for place in _places(self._folder):
            if place >= own:
                return False
            wanted = _wanted(place, now)
            if wanted is None:
                place.unlink(missing_ok=True)
            elif set(wanted) & set(self._names):
                return True
        return False

    def _take_free(self) -> None:
        for name in self._names:
            if name in self._locks or len(self._locks) == self._count:
                continue
            lock = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                self._locks[name] = lock

    def _leave_line(self) -> None:
        if self._place is not None:
            path, descriptor = self._place
            self._place = None
            path.unlink(missing_ok=True)
            os.close(descriptor)


def taken(folder: Path, names: Sequence[str]) -> set[str] | None:
    """Those of some GPUs that anybody holds; None where they change hands just now."""
    (folder / "line").mkdir(parents=True, exist_ok=True)
    with _moment(folder / "line.lock") as line:
        # Nobody takes one in this moment, so that looking stands in nobody's way.
        return None if line is None else {name for name in names if _held(folder / f"{name}.lock")}


def _held(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def _moment(path: Path) -> Iterator[int | None]:
    """The file with its lock held until the end; None where somebody else has it just now."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def _next_number(line: int, places: Sequence[Path]) -> str:
    """A number above all that were ever given, so that no place is taken for another one."""
    last = os.pread(line, 20, 0)
    number = max([int(last) if last.isdigit() else 0, *(int(place.name) for place in places)]) + 1
    name = f"{number:020d}"
    os.pwrite(line, name.encode(), 0)
    return name


def _places(folder: Path) -> list[Path]:
    return sorted(place for place in (folder / "line").iterdir() if place.name.isdigit())


def _wanted(place: Path, now: float) -> Sequence[str] | None:
    """What the one who stands there waits for; None where that one is gone, or seems to be."""
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if now - os.fstat(descriptor).st_mtime > SILENT_SECONDS:
            return None
        with suppress(BlockingIOError):
            # Shared, since NFS locks what is only read no other way.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # nobody held it: its process has ended
        found: Sequence[str] = json.loads(os.read(descriptor, 1 << 20) or b"[]")
        return found
    finally:
        os.close(descriptor)
