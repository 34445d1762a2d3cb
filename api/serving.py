"""The server: `python -m api`. What holds of a connection before there is a request.

uvicorn times a connection between two requests, not one that sends half a head, nor a client
that doesn't read its answer; both cost a place, and are let go here. An address that others can
reach is not listened on before there is an API key.
"""

import asyncio
import logging
import resource
import socket
import sys
from typing import Any

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.protocols.http.h11_impl import H11Protocol

from api import callers, request_id, warming
from api.app import create_app
from api.errors import LedgerUnreachable
from api.settings import Settings
from workers import logs

log = logging.getLogger(__name__)

MISCONFIGURED = 78  # EX_CONFIG
MAX_HEAD_BYTES = 32 * 1024
# For the rest of a body that nobody reads, after its answer.
LINGER_SECONDS = 5.0
# How long a thread that checks a big table may keep Python from those that answer the others;
# Python's own 5 ms add up, since an answer changes threads several times.
SWITCH_SECONDS = 0.001
GRACE_SECONDS = 3  # clients that wait for a job's end hold connections open; a stop can't wait
NO_KEY = (
    "mixlab does not listen on {host} before there is an API key: others could reach it. Make one "
    "with `mixlab keys create NAME` (in compose: docker compose run --rm api mixlab keys create "
    "NAME), or listen on 127.0.0.1.\n"
)


def serve(settings: Settings) -> int:
    """Answer requests until a signal comes; the exit status."""
    logs.configure(settings.log_format, settings.log_level, more=_asked)
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings)
    if not settings.only_local and not _any_key(app.state.resources):
        sys.stderr.write(NO_KEY.format(host=settings.host))
        return MISCONFIGURED
    _allow_many_files()
    Server(configuration(app, settings)).run()
    return 0


def _asked() -> dict[str, object]:
    return {"request_id": request_id.current(), "key": callers.key_id.get()}


def configuration(app: Any, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=timed(settings),
        ws="none",
        server_header=False,
        log_config=None,  # workers/logs.py has it
        access_log=False,  # api/metrics/observing.py writes one that knows route and key
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _any_key(resources: Any) -> bool:
    try:
        return bool(resources.ledger().keys.exist())
    except (LedgerUnreachable, SQLAlchemyError) as problem:
        # It may come up later. Meanwhile nobody is answered, since no key can be checked.
        log.warning("listening without the ledger: %s", type(problem).__name__)
        return True


def _allow_many_files() -> None:
    """Every connection is an open file, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))


def timed(settings: Settings) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 with time limits of these settings."""

    class Timed(TimedProtocol):
        head_seconds = settings.head_seconds
        stalled_seconds = settings.stalled_seconds
        max_connections = settings.max_connections

    return Timed


class Server(uvicorn.Server):
    """uvicorn, which imports what comes late once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        warming.begin()


class TimedProtocol(H11Protocol):
    """A connection that is closed where its client is too slow to send, or to read."""

    head_seconds: float
    stalled_seconds: float
    max_connections: int
    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._head = self.loop.call_later(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        _stop(self._head)
        _stop(self._stall)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that is not whole keeps its clock."""
        super().data_received(data)
        if self._under_way():
            _stop(self._head)
            self._head = None
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.head_seconds, self._give_up)

    def on_response_complete(self) -> None:
        """Go on with the next request, if this one's body has come to its end."""
        super().on_response_complete()
        if not self._under_way() and not self.transport.is_closing() and self.cycle.more_body:
            _stop(self._head)
            self._head = self.loop.call_later(LINGER_SECONDS, self._give_up)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.stalled_seconds, self._give_up)

    def resume_writing(self) -> None:
        """The client reads again."""
        _stop(self._stall)
        self._stall = None
        super().resume_writing()

    def _under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
