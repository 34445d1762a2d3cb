"""What one request may cost before anything looks at it: bytes, seconds, a place among others.

Limits hold as bytes arrive, so they hold for bodies without a Content-Length too. A body that
comes too slowly, and an answer that doesn't begin, end in a problem document; a thread that is
still at it goes on to its end. The head of a request is timed by the server (serving.py).
"""

import asyncio
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import RequestRefused, refused
from api.settings import Settings

MAX_TARGET_BYTES = 8 * 1024  # path and query
MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS = 100
# Always answered, so that a busy process isn't taken for a dead one.
ALWAYS = "/livez"
CLOSE = {"Connection": "close"}


class Bounded:
    """Refuses requests that are too large, too slow, or too many at once."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._under_way += 1
        exchange = Exchange(receive, send, self._settings)
        try:
            self._check(scope)
            await exchange.run(self._app, scope)
        except RequestRefused as refusal:
            await refused(refusal, scope["path"])(scope, receive, send)
        finally:
            self._under_way -= 1

    def _check(self, scope: Scope) -> None:
        target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if target > MAX_TARGET_BYTES:
            raise RequestRefused(
                414, f"The URL has {target} bytes; {MAX_TARGET_BYTES} are read.", headers=CLOSE
            )
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > MAX_HEADER_BYTES or len(scope["headers"]) > MAX_HEADERS:
            raise RequestRefused(
                431,
                f"The {len(scope['headers'])} headers have {size} bytes; at most {MAX_HEADERS} "
                f"with {MAX_HEADER_BYTES} bytes are read.",
                headers=CLOSE,
            )
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            # Where a proxy goes by the other one, the rest is somebody's next request.
            raise RequestRefused(
                400,
                "The request has a Content-Length and a Transfer-Encoding; send one of them.",
                headers=CLOSE,
            )
        check_size(_announced_bytes(headers), self._settings.max_body_bytes)
        if self._under_way > self._settings.max_requests and scope["path"] != ALWAYS:
            raise RequestRefused(
                503,
                f"{self._settings.max_requests} requests are under way; try again shortly.",
                headers={"Retry-After": "1"},
            )


class Exchange:
    """One request and its answer, on the clock."""

    def __init__(self, receive: Receive, send: Send, settings: Settings) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._began: float | None = None
        self._bytes = 0
        self._whole = False
        self._answering = False
        self._patience = asyncio.timeout(None)

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the app answer. Raises RequestRefused where it has not begun to in time."""
        seconds = self._settings.answer_seconds
        try:
            async with asyncio.timeout(seconds) as self._patience:
                await app(scope, self.receive, self.send)
        except TimeoutError:
            if self._answering or not self._patience.expired():
                raise
            raise RequestRefused(
                503, f"There was no answer within {seconds:g} s.", headers={"Retry-After": "5"}
            ) from None

    async def receive(self) -> Message:
        """The next piece of the body, within its limits. Raises RequestRefused past them."""
        if self._whole:
            return await self._receive()
        try:
            return await self._piece()
        except RequestRefused:
            if self._answering:
                return {"type": "http.disconnect"}  # nobody reads it: the stream ends
            raise

    async def _piece(self) -> Message:
        loop, seconds = asyncio.get_running_loop(), self._settings.body_seconds
        if self._began is None:
            self._began = loop.time()
        try:
            async with asyncio.timeout_at(self._began + seconds):
                message = await self._receive()
        except TimeoutError:
            raise RequestRefused(
                408, f"The body did not arrive within {seconds:g} s.", headers=CLOSE
            ) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            check_size(self._bytes, self._settings.max_body_bytes)
            self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send on; an answer that has begun may take as long as it likes."""
        if not self._answering:
            self._answering = True
            self._patience.reschedule(None)
        await self._send(message)


def check_size(size: int, limit: int) -> None:
    """Raise RequestRefused with 413 for a body above the limit."""
    if size > limit:
        raise RequestRefused(
            413,
            f"The body has more than {limit} bytes; MIXLAB_MAX_BODY_BYTES sets the limit.",
            headers=CLOSE,
        )


def _announced_bytes(headers: Headers) -> int:
    announced: Any = headers.get("content-length", "0")
    return int(announced) if announced.isdecimal() and len(announced) < 20 else 0
