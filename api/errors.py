"""Errors as RFC 9457 problem documents, and the only home of their HTTP statuses.

Each problem has `type` (`urn:mixlab:error:<slug>`), `title`, `status`, `detail`,
`instance` and `request_id`; a body or query that doesn't validate adds `errors`,
each with a JSON pointer (RFC 6901) into the body, or the name of the parameter.
A path parameter that can't be an id is a 404: nothing answers to it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError, TimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api import request_id
from mixlab import errors
from mixlab.errors import MixlabError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TRY_AGAIN_SECONDS = "5"
LONGEST_INSTANCE = 200

STATUS: dict[type[MixlabError], int] = {
    errors.InvalidMixture: 422,
    errors.InvalidBudget: 422,
    errors.InvalidRecipe: 422,
    errors.InvalidCorpus: 422,
    errors.InvalidTable: 422,
    errors.InvalidLoss: 422,
    errors.TooFewMixtures: 422,
    errors.InfeasibleConstraints: 422,
    errors.PathNotAllowed: 403,
    # Recipes, laws and catalogues are named in bodies, never in a URL: the URL is right.
    errors.UnknownRecipe: 422,
    errors.UnknownLaw: 422,
    errors.UnknownCatalogue: 422,
    errors.UnknownCorpus: 404,
    errors.UnknownMixture: 404,
    errors.UnknownRun: 404,
    errors.UnknownJob: 404,
    errors.MissingFile: 422,
    errors.MissingTextField: 422,
    errors.TruncatedFile: 422,
    errors.LimitExceeded: 422,
    errors.EmptyDomain: 422,
    errors.DomainTooSmall: 422,
    errors.ChecksumMismatch: 502,
    errors.UnsafeArchive: 502,
    errors.MissingClient: 501,
    errors.Diverged: 422,
    errors.QuotaExceeded: 429,
    errors.UnknownKey: 404,
    errors.NotEnoughMemory: 507,
    errors.NotWritten: 507,
    errors.MissingExtra: 501,
    errors.NotReady: 409,
    errors.AlreadyExists: 409,
    errors.InUse: 409,
    errors.LeaseLost: 409,
    # Bases, which some code raises as they are.
    errors.Unknown: 404,
    errors.FetchFailed: 502,
    errors.Conflict: 409,
}

# Of statuses that no class of ours stands for: slug and title.
TITLES: dict[int, tuple[str, str]] = {
    400: ("malformed-request", "The request can't be read"),
    401: ("unauthorized", "An API key is needed"),
    403: ("forbidden", "The API key may not do that"),
    404: ("not-found", "Nothing answers to this path"),
    405: ("method-not-allowed", "This path doesn't answer to that method"),
    406: ("not-acceptable", "The answer can't be of an accepted type"),
    408: ("too-slow", "The request took too long to arrive"),
    409: ("conflict", "The state of the thing forbids it"),
    413: ("body-too-large", "The request body is too large"),
    414: ("url-too-long", "The URL is too long"),
    415: ("unsupported-media-type", "Bodies must be application/json"),
    422: ("invalid-request", "The request doesn't validate"),
    429: ("too-many-requests", "Too many requests"),
    431: ("headers-too-large", "The headers are too large"),
    500: ("internal", "The service failed; its log says why"),
    503: ("unavailable", "The service can't answer now"),
}


class LedgerUnreachable(Exception):
    """The ledger could not be opened; the API goes on and tries again at the next request."""


class RequestRefused(HTTPException):
    """A request that is refused before its route sees it, or by the route itself.

    Slug and title are those of the status in TITLES, unless they are given.
    """

    def __init__(
        self,
        status_code: int,
        detail: str,
        *,
        slug: str | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code, detail, headers)
        self.slug = slug
        self.title = title


def status_of(error: type[MixlabError]) -> int:
    """The HTTP status of an error, by its nearest class in STATUS; 500 where there is none."""
    return next((STATUS[known] for known in error.__mro__ if known in STATUS), 500)


def problem(
    status: int,
    detail: str,
    *,
    slug: str | None = None,
    title: str | None = None,
    instance: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    """A problem document; slug and title default to those of the status."""
    known_slug, known_title = TITLES.get(status, ("http-error", _phrase(status)))
    asked = request_id.current()
    body = {
        "type": f"urn:mixlab:error:{slug or known_slug}",
        "title": title or known_title,
        "status": status,
        "detail": detail,
        **({"instance": instance} if instance else {}),
        **({"request_id": asked} if asked else {}),
        **members,
    }
    # Here too, since an unexpected error is answered outside of all middleware.
    known = {request_id.HEADER: asked} if asked else {}
    return JSONResponse(
        body, status_code=status, media_type=MEDIA_TYPE, headers={**known, **(headers or {})}
    )


def title_of(error: type[MixlabError]) -> str:
    """The first line of the class's docstring, without its full stop."""
    return (error.__doc__ or error.__name__).splitlines()[0].rstrip(".")


def install(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _unexpected)


async def _deliberate(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MixlabError)
    kind = type(error)
    status = status_of(kind)
    return problem(
        status,
        str(error),
        slug=kind.slug(),
        title=title_of(kind),
        instance=request.url.path,
        headers={"Retry-After": TRY_AGAIN_SECONDS} if status == 429 else None,
    )


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [_item(item) for item in error.errors()]
    if all(item["loc"][:1] == ("path",) for item in error.errors()):
        return problem(404, "No id looks like that.", instance=request.url.path)
    where = found[0].get("pointer", found[0].get("parameter", ""))
    detail = f"{where or 'The body'}: {found[0]['detail']}"
    more = f" ({len(found) - 1} more in `errors`)" if len(found) > 1 else ""
    return problem(422, detail + more, instance=request.url.path, errors=found)


def _item(item: Mapping[str, Any]) -> dict[str, str]:
    place, *path = item["loc"]
    message = str(item["msg"]).removeprefix("Value error, ")
    if place == "body":
        return {"pointer": _pointer(path), "detail": message}
    return {"parameter": ".".join(map(str, path)), "in": str(place), "detail": message}


def _pointer(path: Sequence[object]) -> str:
    # "[key]" is pydantic's mark for "the key itself is wrong", no place in the document.
    parts = [str(part) for part in path if part != "[key]"]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail, headers = str(error.detail), dict(error.headers or {})
    if isinstance(error, RequestRefused):
        return refused(error, request.url.path)
    if error.status_code == 404:
        detail = f"There is no {request.url.path}; GET /openapi.json lists every path."
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_here(request))
        detail = f"{request.url.path} answers to {headers['Allow']}, not to {request.method}."
    return problem(error.status_code, detail, instance=request.url.path, headers=headers)


def _methods_here(request: Request) -> list[str]:
    """Every method of a path; Starlette names those of the first route alone."""
    place = {
        "type": "http", "headers": [], "path": request.scope["path"],
        "root_path": request.scope.get("root_path", ""),
    }  # fmt: skip
    routes = request.app.router.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**place, "method": method})[0] is Match.FULL for route in routes)
    ]


def refused(error: RequestRefused, path: str) -> JSONResponse:
    """The answer to a request that was refused, by a layer around the routes or by one of them."""
    return problem(
        error.status_code, str(error.detail), slug=error.slug, title=error.title,
        instance=path[:LONGEST_INSTANCE], headers=error.headers,
    )  # fmt: skip


async def _ledger_down(request: Request, error: Exception) -> JSONResponse:
    return ledger_down(error, request.url.path)


def ledger_down(error: Exception, path: str) -> JSONResponse:
    """The answer where the ledger would have been asked."""
    # The driver's message may quote the URL; the log filters it, an answer must not hold it.
    log.error("the ledger can't be reached: %s", type(error.__cause__ or error).__name__)
    return problem(
        503,
        "The ledger can't be reached; nothing was recorded. Try again shortly.",
        slug="ledger-unreachable",
        instance=path,
        headers={"Retry-After": TRY_AGAIN_SECONDS},
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected error at %s", request.url.path, exc_info=error)
    return problem(
        500,
        "An unexpected error; the service's log has it under this request_id.",
        instance=request.url.path,
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "HTTP error"


Handler = Callable[[Request, Exception], Awaitable[JSONResponse]]

HANDLERS: dict[type[Exception], Handler] = {
    MixlabError: _deliberate,
    RequestValidationError: _invalid,
    HTTPException: _http,
    LedgerUnreachable: _ledger_down,
    OperationalError: _ledger_down,
    TimeoutError: _ledger_down,
}


async def answer_to(request: Request, error: Exception) -> JSONResponse | None:
    """The answer that an error gets; None for one that nobody foresaw."""
    handler = next((HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS), None)
    return await handler(request, error) if handler else None
