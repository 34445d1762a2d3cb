"""One transaction each: reads, and writes that may be tried again where a connection broke.

A connection can break after a commit whose answer never arrives, so a write is
tried again only where doing it twice comes to the same: each of the workers'
writes does, since it names the attempt that it belongs to.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from mixlab.ledger.engine import WRITES
from mixlab.ledger.ids import Clock, Ids

T = TypeVar("T")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


class Database:
    """An engine with the clock that stamps its rows and the maker of its ids."""

    def __init__(self, engine: Engine, clock: Clock, *, patience_seconds: float = 0.0) -> None:
        self._readers = engine
        self._writers = engine.execution_options(**WRITES)
        self.now = clock
        self.ids = Ids(clock)
        self._patience_seconds = patience_seconds

    def close(self) -> None:
        """Let go of all connections."""
        self._readers.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Ask; tried again while the database is away, as long as the patience lasts."""

        def once() -> T:
            with self._readers.connect() as db:
                return work(db)

        return self._patiently(once)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Change something once."""
        with self._writers.begin() as db:
            return work(db)

    def write_again(self, work: Callable[[Connection], T]) -> T:
        """Change something that may be done twice; tried again as reads are."""
        return self._patiently(lambda: self.write(work))

    def _patiently(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._patience_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return work()
            except DBAPIError as problem:
                if not away(problem) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def away(problem: BaseException) -> bool:
    """Whether the database, not the statement, is at fault: a broken connection, a full disk."""
    return isinstance(problem, OperationalError | InterfaceError) or (
        isinstance(problem, DBAPIError) and problem.connection_invalidated
    )
