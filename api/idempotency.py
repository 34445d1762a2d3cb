"""Idempotency-Key: a POST that is sent again makes nothing twice, and is answered as it was.

The same key with the same payload gets the first answer again, for a day and
for its caller alone; with another payload a 422; while the first is under way a
409. Answers that the same request may well not get later (5xx, 401, 403, 409,
429) are not kept. What a request makes has an id or key that follows from it,
so that one whose process died before it answered finds what it had made.

Source: draft-ietf-httpapi-idempotency-key-header-07. Keys may come without the
quotes of a structured field, as most clients send them.
"""

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BeforeValidator
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.dependencies import LedgerDep
from api.errors import MEDIA_TYPE, RequestRefused, answer_to
from mixlab.ledger.records import Answer
from mixlab.ledger.requests import Requests
from mixlab.ledger.sql import Ledger

log = logging.getLogger(__name__)

KEEP = timedelta(hours=24)
REPLAYED = "Idempotent-Replayed"
PATTERN = r'^("[!#-\[\]-~]{1,255}"|[!#-\[\]-~]{1,255})$'  # visible ASCII, no quote or backslash
_KEY = re.compile(PATTERN[:-1] + r"\Z")
CHANGES_BY_ITSELF = frozenset({401, 403, 408, 409, 425, 429})
KEPT_HEADERS = ("location", "retry-after", "etag")


@dataclass(frozen=True)
class Begun:
    """The first request of a key, which is under way."""

    requests: Requests
    owner: str
    key: str


class Replayed(Exception):
    """This request was answered before, so."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def _true_or_false(value: object) -> object:
    """JSON's words alone, where pydantic would take `yes` and `1` too."""
    words = {"true": True, "false": False}
    if value not in words and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value if isinstance(value, bool) else words[str(value)]


ValidateOnly = Annotated[
    bool,
    BeforeValidator(_true_or_false),
    Query(description="Check the request and say what was found; nothing is recorded."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A text of your own for this request, such as a UUID: sent again with the "
        "same payload within a day, it gets the first answer again.",
        json_schema_extra={"pattern": PATTERN, "type": "string"},
    ),
]


async def once(
    request: Request,
    ledger: LedgerDep,
    validate_only: ValidateOnly = False,
    idempotency_key: IdempotencyKey = None,
) -> str | None:
    """The digits of the id of what the request makes; None where any will do.

    Raises Replayed where the request was answered before, RequestRefused for one that is under
    way, for another payload, and for a key that is malformed or missing.
    """
    if idempotency_key is None:
        if request.app.state.settings.require_idempotency_key and not validate_only:
            raise _refused(400, "missing", "Send an Idempotency-Key, such as a UUID.")
        return None
    if not _KEY.match(idempotency_key):
        raise _refused(400, "malformed", "Idempotency-Key must be 1 to 255 visible characters.")
    if validate_only:
        return None
    key, print_ = idempotency_key.strip('"'), _fingerprint(request, await request.body())
    return await run_in_threadpool(_begin, request, ledger, key, print_)


Once = Annotated[str | None, Depends(once)]


def _begin(request: Request, ledger: Ledger, key: str, fingerprint: str) -> str:
    owner = ledger.owner or ""
    known = ledger.requests.begin(owner, key, fingerprint, keep=KEEP)
    if known is None:
        request.state.begun = Begun(ledger.requests, owner, key)
        return ledger.requests.number(owner, key, keep=KEEP)
    if known.fingerprint != fingerprint:
        raise _refused(422, "reused", "This Idempotency-Key came with another request before.")
    if known.status is None:
        raise _refused(
            409, "under-way", "The first request with this Idempotency-Key has no answer yet.",
            headers={"Retry-After": "2"},
        )  # fmt: skip
    raise Replayed(known)


def _refused(status: int, what: str, detail: str, **more: dict[str, str]) -> RequestRefused:
    title = f"The Idempotency-Key is {what.replace('-', ' ')}"
    return RequestRefused(
        status, detail, slug=f"idempotency-key-{what}", title=title, headers=more.get("headers")
    )


def _fingerprint(request: Request, body: bytes) -> str:
    told = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(told + body).hexdigest()


async def kept(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """The answer to a request, kept where it has a key; or the one that was kept before."""
    try:
        response = await answer(request)
    except Replayed as before:
        return _again(before.answer)
    except Exception as error:
        begun = _begun(request)
        if begun is None:
            raise
        told = await answer_to(request, error)
        if told is None:
            await _reopen(begun)
            raise
        response = told
    begun = _begun(request)
    if begun is not None:
        await run_in_threadpool(_keep, begun, response)
    return response


def _begun(request: Request) -> Begun | None:
    begun: Begun | None = getattr(request.state, "begun", None)
    return begun


def _again(answer: Answer) -> Response:
    status = answer.status or 500
    return Response(
        (answer.body or "").encode(),
        status,
        {**(answer.headers or {}), REPLAYED: "true"},
        media_type=MEDIA_TYPE if status >= 400 else "application/json",
    )


def _keep(begun: Begun, response: Response) -> None:
    """Keep an answer that would stay the same. Where the ledger is away, it is not kept.

    Then the key counts as abandoned after a while, and the same request finds what it made.
    """
    status = response.status_code
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    try:
        if status >= 500 or status in CHANGES_BY_ITSELF:
            begun.requests.reopen(begun.owner, begun.key)
            return
        body = bytes(response.body).decode()
        begun.requests.answer(begun.owner, begun.key, status, headers, body)
    except SQLAlchemyError as problem:
        log.warning("an answer was not kept for its key: %s", type(problem).__name__)


async def _reopen(begun: Begun) -> None:
    try:
        await run_in_threadpool(begun.requests.reopen, begun.owner, begun.key)
    except SQLAlchemyError as problem:
        log.warning("a key was not set free: %s", type(problem).__name__)
