"""One job, as pollers ask for it: the route that is asked the most.

What most polls say, an id and perhaps an ETag, needs none of FastAPI's parsing, which takes longer
than finding the job. So those without a query and without preferences go around it.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from api.callers import Caller
from api.dependencies import Id
from api.jobs.schemas import JobView
from api.jobs.seen import Seen
from api.jobs.showing import etag_of, matches, shown
from api.jobs.watching import Watcher, watcher_of
from api.openapi import ETAG, PREFERENCE_APPLIED, RETRY_AFTER, problems
from api.preferring import Prefer, WaitQuery, wait_asked
from api.strict import JSON_TYPE, StrictRoute, accepts
from mixlab.errors import UnknownJob

IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="ETags of the job as you know it.")
]
_HEADERS = {**ETAG, **RETRY_AFTER, **PREFERENCE_APPLIED}


class PollRoute(StrictRoute):
    """A route of one job whose plainest requests are answered at once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The strict handler, for what is not plain."""
        whole = super().get_route_handler()

        async def handler(request: Request) -> Response:
            asks_more = request.scope["query_string"] or "prefer" in request.headers
            if asks_more or not accepts(request, JSON_TYPE):
                return await whole(request)
            seen = await visible(watcher_of(request), request, request.path_params["job_id"])
            return shown(seen, if_none_match=request.headers.get("if-none-match"))

        return handler


router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=PollRoute)


@router.get(
    "/{job_id:id}",
    operation_id="getJob",
    response_model=JobView,
    responses={
        **problems(422, UnknownJob),
        200: {"headers": _HEADERS},
        304: {"description": "The job is as the given ETag knows it.", "headers": _HEADERS},
    },
)
async def get_job(
    job_id: Id,
    request: Request,
    wait: WaitQuery = None,
    prefer: Prefer = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One job. While it is active `Retry-After` says when to ask again.

    With `wait` the answer comes once the job has changed from the given ETag; without an ETag,
    once the job has ended; or when the time is over.
    """
    watcher = watcher_of(request)
    seen = await visible(watcher, request, job_id)
    seconds = wait_asked(request, wait)
    if seconds:

        def enough(now: Seen) -> bool:
            return now.ended or (bool(if_none_match) and not matches(if_none_match, etag_of(now)))

        seen = await watcher.until(seen, enough, seconds, request.receive)
    return shown(seen, if_none_match=if_none_match, waited=seconds)


async def visible(watcher: Watcher, request: Request, job_id: str) -> Seen:
    """The job as it is now, if the caller may see it. Raises UnknownJob."""
    seen = await watcher.views.of(job_id)
    caller: Caller = request.state.caller
    if seen is None or not caller.sees(seen.owner):
        raise UnknownJob(f"There is no job {job_id!r}; GET /jobs lists those there are.")
    return seen
