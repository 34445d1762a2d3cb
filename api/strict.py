"""Request bodies read strictly: bounded, JSON only, no name twice in one object.

Python's JSON reader keeps the last of two equal names and accepts NaN; here
both are refused, because a domain that vanishes silently changes the mixture.
The limit counts bytes as they arrive, so it holds for chunked bodies too.
"""

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.errors import RequestRefused


class StrictRequest(Request):
    """A request whose body is bounded and whose JSON is unambiguous."""

    async def body(self) -> bytes:
        """The body. Raises RequestRefused with 413 as soon as it passes the limit."""
        if not hasattr(self, "_body"):
            limit = self.app.state.settings.max_body_bytes
            chunks: list[bytes] = []
            size = _announced_bytes(self)
            _within(size, limit)
            size = 0
            async for chunk in self.stream():
                size += len(chunk)
                _within(size, limit)
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        """The body as JSON. Raises RequestRefused where it is not, or not unambiguous."""
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its body as a StrictRequest, and only as JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the checks."""
        answer = super().get_route_handler()
        reads_body = self.body_field is not None

        async def handler(request: Request) -> Response:
            if reads_body:
                _json_only(request)
            return await answer(StrictRequest(request.scope, request.receive))

        return handler


def parse(body: bytes) -> Any:
    """JSON without duplicate names, NaN or infinities. Raises RequestRefused with 400 or 422."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_not_finite)
    except UnicodeDecodeError as error:
        raise RequestRefused(400, f"The body is not UTF-8 at byte {error.start}.") from error
    except json.JSONDecodeError as error:
        raise RequestRefused(
            400, f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    except RecursionError as error:
        raise RequestRefused(400, "The body is nested too deeply.") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise RequestRefused(400, f"The body has an unreadable number: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestRefused(
            422,
            f"The name {twice!r} stands twice in one object; give each domain or option once, "
            "under a name of its own.",
        )
    return found


def _not_finite(constant: str) -> NoReturn:
    raise RequestRefused(422, f"The body holds {constant}; numbers must be finite.")


def _json_only(request: Request) -> None:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "")
    kind = message.get_content_type() if request.headers.get("content-type") else ""
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestRefused(
            415, f"Content-Type is {kind or 'missing'}; send the body as application/json."
        )


def _announced_bytes(request: Request) -> int:
    announced = request.headers.get("content-length", "0")
    return int(announced) if announced.isdecimal() else 0


def _within(size: int, limit: int) -> None:
    if size > limit:
        raise RequestRefused(
            413, f"The body has more than {limit} bytes; MIXLAB_MAX_BODY_BYTES sets the limit."
        )
