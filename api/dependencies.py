"""What routes are given: settings, the ledger, the dispatcher, the path policy.

The ledger opens at the first use that succeeds, so an API whose database comes
up later starts all the same and says so at `/readyz`.

Dependencies that only hand something on are coroutines: FastAPI runs each plain
function in a thread of its own, which takes longer than all of them do.
"""

from threading import Lock
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.callers import Caller
from api.disk import Disk
from api.dispatch import Dispatcher
from api.errors import LedgerUnreachable
from api.settings import Settings
from api.values import ID_PATTERN
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.ledger.sql import Ledger


class Resources:
    """What one running API holds open."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dispatcher = Dispatcher(
            settings.broker_url.get_secret_value(),
            timeout_seconds=settings.broker_timeout_seconds,
        )
        self.policy = settings.path_policy()
        self.disk = Disk(settings.home)
        self._ledger: Ledger | None = None
        self._opening = Lock()

    def ledger(self) -> Ledger:
        """The ledger, opened now if it wasn't. Raises LedgerUnreachable."""
        with self._opening:
            if self._ledger is None:
                try:
                    self._ledger = Ledger.open(self.settings.database_url.get_secret_value())
                except (SQLAlchemyError, OSError) as error:
                    raise LedgerUnreachable(type(error).__name__) from error
            return self._ledger

    @property
    def opened(self) -> Ledger | None:
        """The ledger, if it was opened already."""
        return self._ledger

    def close(self) -> None:
        """Close what is open."""
        self.dispatcher.close()
        if self._ledger is not None:
            self._ledger.close()


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(_resources)]


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller  # set by api/auth.py, without which no route is reached
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


async def _ledger(resources: ResourcesDep, caller: CallerDep) -> Ledger:
    """The ledger as the caller sees it; what is asked for through it is the caller's."""
    ledger = resources.opened
    if ledger is None:
        ledger = await run_in_threadpool(resources.ledger)
    return ledger.of(
        caller.key_id,
        everything=caller.sees_everything,
        max_active=resources.settings.max_active_jobs,
    )


async def _dispatcher(resources: ResourcesDep) -> Dispatcher:
    return resources.dispatcher


async def _policy(resources: ResourcesDep) -> PathPolicy:
    return resources.policy


LedgerDep = Annotated[Ledger, Depends(_ledger)]
DispatcherDep = Annotated[Dispatcher, Depends(_dispatcher)]
PolicyDep = Annotated[PathPolicy, Depends(_policy)]

# api/errors.py answers what can't be an id with 404.
Id = Annotated[str, Path(max_length=64, pattern=ID_PATTERN)]
