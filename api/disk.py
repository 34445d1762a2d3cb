"""Whether the home folder takes a file, and what is free on its disk.

A network disk that is away may block whoever asks for ever. So a thread asks, and those who want
to know wait for it a second at most; while it is held up, no second one is sent after it.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Space:
    """What a disk has."""

    writable: bool
    free_bytes: int
    size_bytes: int


class Disk:
    """The disk of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread: Thread | None = None
        self._space: Space | None = None
        self._lock = Lock()

    def look(self) -> Space | None:
        """Its space; None where the folder is missing, or the disk doesn't answer in time."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._ask, daemon=True, name="disk")
                self._thread.start()
            thread = self._thread
        thread.join(PATIENCE_SECONDS)
        return None if thread.is_alive() else self._space

    def _ask(self) -> None:
        try:
            self._space = _space(self._folder)
        except OSError:
            self._space = None


def _space(folder: Path) -> Space:
    found = os.statvfs(folder)
    return Space(
        writable=_takes_a_file(folder),
        free_bytes=found.f_bavail * found.f_frsize,
        size_bytes=found.f_blocks * found.f_frsize,
    )


def _takes_a_file(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"mixlab")
    except OSError:
        return False
    return True
