"""POSTs that make something: a job, a corpus, a mixture; or only say what they would make.

`?validate_only=true` checks everything and records nothing (AIP-163). With an Idempotency-Key
a request makes its thing once, however often it is sent. `Prefer: wait=N` turns the 202 of a job
into a 200 once it has ended within N seconds.
"""

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Response
from pydantic import Field

from api.dependencies import DispatcherDep, LedgerDep
from api.dispatch import Dispatcher
from api.idempotency import REPLAYED as REPLAYED_HEADER
from api.idempotency import Once, ValidateOnly, kept
from api.jobs.schemas import JobView
from api.jobs.showing import RETRY_AFTER_SECONDS, shown
from api.jobs.watching import watcher_of
from api.openapi import (
    LOCATION,
    PREFERENCE_APPLIED,
    REPLAYED,
    RETRY_AFTER,
    Responses,
    job_links,
    problems,
)
from api.preferring import preferred, wait_preferred
from api.strict import StrictRoute
from api.values import View
from mixlab.errors import Conflict, MixlabError, QuotaExceeded
from mixlab.ledger.records import JobKind, Queue
from mixlab.ledger.sql import Ledger

log = logging.getLogger(__name__)


class CheckedView(View):
    """A request that would be accepted, as the service understands it."""

    valid: Literal[True] = True
    found: dict[str, Any] = Field(
        description="What would be recorded: defaults filled in, names and paths resolved."
    )


@dataclass(frozen=True)
class Making:
    """How what a request asks for is to be made."""

    ledger: Ledger
    dispatcher: Dispatcher
    response: Response
    number: str | None  # of the id of what is made, where the request has an Idempotency-Key
    only_check: bool

    def job(
        self, kind: JobKind, payload: Mapping[str, Any], *, queue: Queue, priority: int = 0
    ) -> JobView | Response:
        """Record a job, send its id, and fill in the headers of the 202; or say what it would do.

        Raises QuotaExceeded.
        """
        if self.only_check:
            table = payload.get("observations")  # of up to 100,000 rows
            told = {} if table is None else {"observations": {"rows": len(table)}}
            return self.checked({"kind": kind, "queue": queue, "priority": priority,
                                 "payload": {**payload, **told}})  # fmt: skip
        key = None if self.number is None else f"request/{self.number}"
        job = self.ledger.submit(kind, payload, queue=queue, key=key, priority=priority)
        log.info("%s %s is asked for", job.kind, job.id, extra={"job": job.id})
        if not job.state.terminal:
            self.dispatcher.send(job, self.ledger)
        self.response.headers["Location"] = f"/jobs/{job.id}"
        self.response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return JobView.of(job)

    def checked(self, found: Mapping[str, Any]) -> Response:
        """The 200 that says what would be recorded."""
        view = CheckedView(found=dict(found))
        return Response(view.model_dump_json(), 200, media_type="application/json")


def _making(
    ledger: LedgerDep,
    dispatcher: DispatcherDep,
    response: Response,
    number: Once,
    validate_only: ValidateOnly = False,
) -> Making:
    return Making(ledger, dispatcher, response, number, validate_only)


MakingDep = Annotated[Making, Depends(_making)]
# For the routes that make jobs: the header is read by MakingRoute.
WAITS = [Depends(preferred)]


class MakingRoute(StrictRoute):
    """A route that may make something: kept by its key, and waited for if it is a job."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The strict handler, with its answer kept and waited for."""
        answer = super().get_route_handler()
        if self.status_code not in (201, 202):
            return answer

        async def handler(request: Request) -> Response:
            return await _waited(request, await kept(request, answer))

        return handler


async def _waited(request: Request, response: Response) -> Response:
    """The answer once its job has ended, if the client prefers to wait and it ends in time."""
    seconds = wait_preferred(request)
    if seconds is None or response.status_code != 202:
        return response
    watcher, place = watcher_of(request), response.headers["location"]
    seen = await watcher.views.of(place.rpartition("/")[2])
    if seen is None:  # an answer kept for longer than its job
        return response
    seen = await watcher.until(seen, lambda now: now.ended, seconds, request.receive)
    ended = shown(seen, waited=seconds, status=200 if seen.ended else 202)
    for name in ("Location", REPLAYED_HEADER):
        if name in response.headers:
            ended.headers[name] = response.headers[name]
    return ended


_KEY_REFUSED = (400, Conflict)  # a key that is malformed, or whose first request is under way
_HEADERS = {**LOCATION, **REPLAYED}


def makes_job(*refusals: type[MixlabError] | int, body: bool = True) -> Responses:
    """How a request for a job may be answered."""
    return {
        **problems(*refusals, *_KEY_REFUSED, QuotaExceeded, 422, body=body),
        200: {
            "model": JobView | CheckedView,
            "description": "The job, ended within the preferred wait; or, with `validate_only`, "
            "what would be recorded.",
            "headers": {**_HEADERS, **PREFERENCE_APPLIED},
        },
        202: {
            "description": "The job is recorded; a worker will do it.",
            "headers": {**_HEADERS, **RETRY_AFTER, **PREFERENCE_APPLIED},
            "links": job_links(),
        },
    }


def makes(what: str, *refusals: type[MixlabError] | int) -> Responses:
    """How a request for something with a URL of its own may be answered."""
    return {
        **problems(*refusals, *_KEY_REFUSED, body=True),
        200: {
            "model": CheckedView,
            "description": "With `validate_only`: what would be recorded.",
        },
        201: {"description": f"The {what}.", "headers": _HEADERS},
    }
