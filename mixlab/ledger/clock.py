"""The database server's time, for workers on hosts whose clocks differ.

A lease ends at a time. If one worker's clock were an hour behind, its leases would look over the
moment it took them; an hour ahead, and a dead worker's job would wait for an hour. So all go by
the server's clock: it is asked once a minute, and the process's monotonic clock, which nobody
sets, counts in between. That one stands still while a machine is suspended, so the server is asked
again once this host's own clock has moved against it. A SQLite file is shared by one host alone,
and so is its clock.
"""

import time
from datetime import UTC, datetime, timedelta
from threading import Lock

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from mixlab.ledger.ids import Clock, utcnow

ASKED_EVERY_SECONDS = 60.0
MOVED_SECONDS = 1.0


def clock_of(engine: Engine) -> Clock:
    """The clock that all processes of a database agree on."""
    return ServerClock(engine) if engine.dialect.name == "postgresql" else utcnow


class ServerClock:
    """PostgreSQL's clock, to within the time that it takes to ask."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: float | None = None  # monotonic seconds
        self._then = utcnow()  # the server's time when it was asked
        self._ahead = _ahead()
        self._lock = Lock()

    def __call__(self) -> datetime:
        """The server's time, aware. This host's own as long as the server was never reached."""
        with self._lock:
            now = time.monotonic()
            moved = abs(_ahead() - self._ahead) > MOVED_SECONDS
            if self._asked is None or moved or now - self._asked > ASKED_EVERY_SECONDS:
                self._ask()
            if self._asked is None:
                return utcnow()
            return self._then + timedelta(seconds=time.monotonic() - self._asked)

    def _ask(self) -> None:
        before, self._ahead = time.monotonic(), _ahead()
        try:
            with self._engine.connect() as db:
                began = time.monotonic()
                then: datetime = db.execute(text("SELECT clock_timestamp()")).scalar_one()
        except SQLAlchemyError:
            # What was known goes on to count; without it, what is asked next says what is wrong.
            self._asked, self._then = self._held(before)
            return
        answered = time.monotonic()
        self._asked, self._then = (began + answered) / 2, then.astimezone(UTC)

    def _held(self, now: float) -> tuple[float | None, datetime]:
        """The last answer, carried on to now, so that it isn't asked again at once."""
        if self._asked is None:
            return None, self._then
        return now, self._then + timedelta(seconds=now - self._asked)


def _ahead() -> float:
    """How far this host's own clock is ahead of its monotonic one."""
    return time.time() - time.monotonic()
