"""An id for each request: from X-Request-ID or made here, on every answer, known to logs.

A client that has an id of its own finds its request by it in the service's log; one that sends
something unfit for a log line gets a fresh id instead of a refusal.
"""

import re
import secrets
from contextvars import ContextVar
from itertools import count

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
PATTERN = r"^[0-9A-Za-z][0-9A-Za-z._:/+=-]{0,127}$"
_FIT = re.compile(PATTERN[:-1] + r"\Z")  # $ also matches before a last newline

# A random beginning and a counter: a call for random bits each time would be most of the work.
_PREFIX, _numbers = secrets.token_hex(10), count()

_current: ContextVar[str] = ContextVar("request_id", default="")


def current() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return _current.get()


class RequestIds:
    """Gives each request its id; the outermost middleware, so that refusals have one too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _FIT.match(given) else _made()
        # Never reset: the answer to an unexpected error is made outside of here, in the same
        # context, which belongs to this request alone.
        _current.set(request_id)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, tell)


def _made() -> str:
    return f"{_PREFIX}{next(_numbers):012x}"
