"""Ids that carry their kind and sort by creation time: `job_0065f2...`.

    id = prefix _ microseconds since 1970 (14 hex digits) random (10 hex digits)

Within one process they rise strictly; between processes their order is that
of the clocks. 40 random bits keep ids of the same microsecond apart.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock

Clock = Callable[[], datetime]


def utcnow() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


class Ids:
    """Maker of ids on a clock; safe between threads."""

    def __init__(self, clock: Clock = utcnow) -> None:
        self._clock = clock
        self._last = 0
        self._lock = Lock()

    def new(self, prefix: str, number: str | None = None) -> str:
        """An id that sorts after all that this maker made before with the same prefix.

        Or the one with a number (24 hex digits) that a request brought along.
        """
        if number is not None:
            return f"{prefix}_{number}"
        with self._lock:
            self._last = max(int(self._clock().timestamp() * 1_000_000), self._last + 1)
            return f"{prefix}_{self._last:014x}{secrets.token_hex(5)}"
