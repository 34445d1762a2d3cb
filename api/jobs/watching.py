"""Who waits for jobs to change: event streams and long polls, with one watcher for all.

The watcher asks the ledger for the versions of all watched jobs at once, twice
a second, so that a thousand open streams cost two queries a tick. Nothing is
asked where nobody waits. A stream or poll holds one of a limited number of
places, and gives it back when its client goes away.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive

from api.errors import LedgerUnreachable
from api.jobs.seen import Seen, Views
from mixlab.ledger.sql import Ledger

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
AWAY = (SQLAlchemyError, LedgerUnreachable)  # of a ledger that may come back

Change = asyncio.Future[None]


class NoPlaceLeft(Exception):
    """As many streams and long polls are open as may be."""


class Watcher:
    """What an API process knows of the jobs that somebody waits for."""

    def __init__(self, ledger: Callable[[], Ledger], *, places: int) -> None:
        # One for each kind of question, which is asked once at a time.
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="watcher")
        self.views = Views(ledger, self._threads)
        self._ledger = ledger
        self._places = places
        self._taken = 0
        self._waiting: dict[str, dict[Change, str]] = {}
        self._ticking: asyncio.Task[None] | None = None  # kept, for tasks are weakly referenced

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def taken(self) -> int:
        """How many streams and long polls are open."""
        return self._taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place. Raises NoPlaceLeft."""
        if self._taken >= self._places:
            raise NoPlaceLeft
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @contextmanager
    def change(self, job_id: str, version: str) -> Iterator[Change]:
        """A future that is done once a tick sees another version of the job, or none at all."""
        future: Change = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, {})[future] = version
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._tick())
        try:
            yield future
        finally:
            self._leave(job_id, future)

    async def until(
        self, seen: Seen, done: Callable[[Seen], bool], seconds: float, receive: Receive
    ) -> Seen:
        """The job once it is as wanted, or as it is when the seconds are over.

        At once where no place is left, since a wait is a preference; or where the client is gone.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            with self.place():
                async with leaving(receive) as gone:
                    while not (done(seen) or gone.done()) and (left := deadline - loop.time()) > 0:
                        with self.change(seen.id, seen.version) as change:
                            await first(left, change, gone)
                        seen = await self.views.of(seen.id) or seen
        except NoPlaceLeft:
            pass
        return seen

    async def _tick(self) -> None:
        while self._waiting:
            await asyncio.sleep(TICK_SECONDS)
            ids = list(self._waiting)
            try:
                reading = asyncio.get_running_loop().run_in_executor
                found = await reading(self._threads, self._versions, ids)
            except AWAY as problem:
                # Only the class, since a driver's text may hold the password of its URL.
                log.warning("watched jobs can't be looked at: %s", type(problem).__name__)
                continue
            self._tell(ids, found)

    def _versions(self, ids: Collection[str]) -> Mapping[str, str]:
        return self._ledger().versions(ids)

    def _tell(self, ids: Collection[str], found: Mapping[str, str]) -> None:
        for job_id in ids:
            for change, version in self._waiting.get(job_id, {}).items():
                if found.get(job_id) != version and not change.done():
                    change.set_result(None)

    def _leave(self, job_id: str, change: Change) -> None:
        others = self._waiting[job_id]
        del others[change]
        if not others:
            del self._waiting[job_id]


@asynccontextmanager
async def leaving(receive: Receive) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that ends when the client goes away."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(gone())
    try:
        yield task
    finally:
        task.cancel()


async def first(seconds: float, *futures: "asyncio.Future[None]") -> None:
    """Wait for the first of them, so long at most."""
    await asyncio.wait(futures, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)


def watcher_of(request: Request) -> Watcher:
    """The watcher of the application that a request came to."""
    watcher: Watcher = request.app.state.watcher
    return watcher


async def _watcher_dep(request: Request) -> Watcher:
    return watcher_of(request)


WatcherDep = Annotated[Watcher, Depends(_watcher_dep)]
