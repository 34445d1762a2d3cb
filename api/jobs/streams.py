"""A job's events as server-sent events, from where a client left off to the job's end.

    event: job                     the whole job, each time that it or a child gets on; without an
    data: {"id": ...}              id, so that it never moves the place to go on from

    event: stage                   submitted, started, stage, ..., succeeded | failed | cancelled
    data: {"job_id": ...}
    id: 7                          the event's number, which a client sends back as Last-Event-ID

A look at the job comes before the look at its events, and events of a later
version wait for the next one. So none is lost or told twice, and the stream can
end after the event that ended the job.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from api.errors import problem
from api.jobs.seen import Seen, Told
from api.jobs.watching import AWAY, TICK_SECONDS, NoPlaceLeft, Watcher, first

P = ParamSpec("P")
T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
RECONNECT_MS = 2000
# nginx would otherwise hold frames back until it has a buffer full of them.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class JobStream(EventSourceResponse):
    """The stream of one job, for as long as its client stays."""

    def __init__(self, watcher: Watcher, seen: Seen, after: int) -> None:
        super().__init__(_frames(watcher, seen, after), headers=HEADERS)
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream where there is a place; it is free again however the stream ends."""
        try:
            with self._watcher.place():
                await super().__call__(scope, receive, send)
        except NoPlaceLeft:
            refusal = problem(
                503,
                "As many event streams are open as this service has places for; poll the job, or "
                "try again shortly.",
                slug="too-many-streams",
                title="No place for another stream",
                instance=scope["path"],
                headers={"Retry-After": "5"},
            )
            await refusal(scope, receive, send)


async def _frames(watcher: Watcher, seen: Seen, after: int) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RECONNECT_MS)
    shown, told_to = b"", min(after, seen.number)
    while True:
        if seen.body != shown:
            shown = seen.body
            yield format_sse_event(event="job", data_str=shown.decode())
        for event in await _told(watcher, seen, told_to):
            yield event.frame
        if seen.ended:
            return
        told_to = seen.number
        with watcher.change(seen.id, seen.version) as change:
            await first(HEARTBEAT_SECONDS, change)
        if not change.done():
            yield KEEPALIVE_COMMENT
            continue
        newer = await _patiently(watcher.views.of, seen.id)
        if newer is None:  # the job is forgotten
            return
        seen = newer


async def _told(watcher: Watcher, seen: Seen, after: int) -> Sequence[Told]:
    """What happened since, with the end of an ended job even where its events are forgotten."""
    if seen.number <= after:
        return ()
    told = await _patiently(watcher.views.events, seen.id, after, seen.number)
    if not seen.ended or (told and told[-1].number == seen.number):
        return told
    data = json.dumps({"job_id": seen.id, "seq": seen.number, "event": seen.state, "data": {}})
    frame = format_sse_event(data_str=data, event=seen.state, id=str(seen.number))
    return [*told, Told(seen.number, frame)]


async def _patiently(ask: Callable[P, Awaitable[T]], *about: P.args, **more: P.kwargs) -> T:
    """Ask until the ledger answers: it may be away for a while, and the stream need not end."""
    while True:
        try:
            return await ask(*about, **more)
        except AWAY:
            await asyncio.sleep(TICK_SECONDS)
