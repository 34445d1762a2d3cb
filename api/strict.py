"""Requests read strictly: JSON only, no name twice, no unknown query parameter.

Python's JSON reader keeps the last of two equal names and accepts NaN; here
both are refused, because a domain that vanishes silently changes the mixture.
So is a query parameter that a route doesn't know, because a misspelt filter
would show everything. How large a body may be is held in limits.py and shapes.py.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from api.errors import RequestRefused
from api.shapes import check_shape

JSON_TYPE = "application/json"
MOST_TOLD = 20  # of wrong parameters
SMALL = 100_000  # bytes


class StrictRequest(Request):
    """A request whose JSON is unambiguous; its bytes are counted before (limits.py)."""

    async def json(self) -> Any:
        """The body as JSON. Raises RequestRefused where it is not, or not unambiguous."""
        if not hasattr(self, "_json"):
            body, most = await self.body(), self.app.state.settings.max_body_values
            # In a thread, for its hooks let others in between; small ones are done at once.
            if len(body) > SMALL:
                self._json = await run_in_threadpool(parse, body, most)
            else:
                self._json = parse(body, most)
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its body as a StrictRequest, only as JSON, and knows its parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the checks."""
        answer = super().get_route_handler()
        reads_body = self.body_field is not None
        known = {
            field.alias
            for field in get_flat_params(self.dependant)
            if isinstance(field.field_info, params.Query)
        }
        offered = _types_of(self.responses)

        async def handler(request: Request) -> Response:
            _acceptable(request, offered)
            _known_once(request, known)
            if reads_body:
                _json_only(request)
            return await answer(StrictRequest(request.scope, request.receive))

        return handler


def accepts(request: Request, media_type: str) -> bool:
    """Whether the Accept header lets an answer be of that type; a missing one takes all."""
    quality = _accepted(request)
    kind = media_type.partition("/")[0]
    nearest = (name for name in (media_type, f"{kind}/*", "*/*") if name in quality)
    return quality.get(next(nearest, ""), 0.0 if quality else 1.0) > 0


def prefers(request: Request, media_type: str) -> bool:
    """Whether the Accept header names that type, and JSON not as much."""
    quality = _accepted(request)
    return quality.get(media_type, 0.0) > quality.get(JSON_TYPE, 0.0)


def _accepted(request: Request) -> dict[str, float]:
    """The qualities of the Accept header, by type."""
    found = {}
    for entry in request.headers.get("accept", "").lower().split(","):
        name, *options = (part.strip() for part in entry.split(";"))
        if name:
            found[name] = next((_quality(o[2:]) for o in options if o.startswith("q=")), 1.0)
    return found


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


def _types_of(responses: dict[int | str, dict[str, Any]]) -> list[str]:
    """What a route may answer with when all is well, as it declares it."""
    told = [response.get("content", {}) for status, response in responses.items() if status == 200]
    return sorted({JSON_TYPE, *(media_type for content in told for media_type in content)})


def _acceptable(request: Request, offered: Collection[str]) -> None:
    if not any(accepts(request, media_type) for media_type in offered):
        raise RequestRefused(
            406,
            f"Accept is {request.headers['accept']}, but this path answers with "
            f"{' or '.join(offered)}.",
        )


def _known_once(request: Request, known: Collection[str]) -> None:
    """Raise a validation error for a query parameter that is unknown, or stands twice."""
    told = f"there are {', '.join(sorted(known))}" if known else "this path takes none"
    wrong = {}
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            wrong[name] = f"is not a parameter here; {told}"
        elif times > 1:
            wrong[name] = f"stands {times} times; give it once"
    if wrong:
        raise RequestValidationError(
            [
                {"loc": ("query", name), "msg": f"{name[:100]!r} {reason}.", "type": "query"}
                for name, reason in list(wrong.items())[:MOST_TOLD]
            ]
        )


def parse(body: bytes, most_values: int = 1_000_000) -> Any:
    """JSON without duplicate names, NaN or infinities. Raises RequestRefused: 400, 413 or 422."""
    check_shape(body, most_values)
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
        times = Counter(name for name, _ in pairs)
        twice = next(name for name, count in times.items() if count > 1)
        raise RequestRefused(
            422,
            f"The name {twice[:100]!r} stands twice in one object; give each domain or option "
            "once, under a name of its own.",
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
