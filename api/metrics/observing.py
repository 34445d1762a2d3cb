"""Each request counted, and told in one line of the log.

Counted by the route's template, never by the path, whose values have no bound; paths that no
route answers to are one.
Limits: seconds run until the answer begins, so that streams of events don't count as slow answers
for as long as they are open.
"""

import logging
import time
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers import tracing

log = logging.getLogger("api.access")

TRACE_HEADERS = ("traceparent", "tracestate")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
LINE = "%s %s %d in %.0f ms"
LONGEST_PATH = 200  # of a log line
EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Requests:
    """The counters of one running API."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self.answered = Counter(
            "mixlab_http_requests", "Requests answered.", labels, registry=registry
        )
        self.seconds = Histogram(
            "mixlab_http_request_duration_seconds", "Seconds until the answer began.",
            labels[:2], registry=registry, buckets=EDGES,
        )  # fmt: skip
        self.open = Gauge(
            "mixlab_http_requests_open", "Requests under way, streams among them.",
            registry=registry,
        )  # fmt: skip


class Observed:
    """Wraps all of the application that may refuse or answer a request."""

    def __init__(self, app: ASGIApp, *, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and tell how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        one = _Request(scope, send)
        with self._requests.open.track_inprogress(), _span(scope):
            try:
                await self._app(scope, receive, one.send)
            finally:
                one.ended(self._requests)


def _span(scope: Scope) -> AbstractContextManager[None]:
    headers = Headers(scope=scope)
    carrier = {name: headers[name] for name in TRACE_HEADERS if name in headers}
    told = {"http.request.method": scope["method"]}
    return tracing.span("request", component="api", carrier=carrier, **told)


def template_of(scope: Scope) -> str:
    """The template of the route that answered, such as `/jobs/{job_id}`; `none` without one.

    A route of an included router knows its own end alone; what stands before it has no values.
    """
    route = scope.get("route")
    if route is None:
        return "none"
    own = str(getattr(route, "path_format", ""))
    segments = own.count("/")
    before = scope["path"].split("/")
    return "/".join(before[: len(before) - segments]) + own


class _Request:
    """One request on its way."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._began = time.perf_counter()
        self._seconds: float | None = None
        self._status = 500  # of an answer that never began: the server makes it

    async def send(self, message: Message) -> None:
        """Hand a part of the answer on."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._seconds = time.perf_counter() - self._began
        await self._send(message)

    def ended(self, requests: Requests) -> None:
        """Count it, and write its line."""
        seconds = time.perf_counter() - self._began if self._seconds is None else self._seconds
        method = self._scope["method"] if self._scope["method"] in METHODS else "other"
        route = template_of(self._scope)
        requests.answered.labels(method, route, self._status).inc()
        requests.seconds.labels(method, route).observe(seconds)
        answer = {"http.route": route, "http.response.status_code": self._status}
        tracing.note(f"{method} {route}", **answer)
        told = {"method": method, "route": route, "status": self._status, "seconds": seconds}
        path = self._scope["path"][:LONGEST_PATH]
        # Health checks ask every few seconds, and say nothing as long as all is well.
        level = logging.DEBUG if route in PROBES and self._status < 400 else logging.INFO
        log.log(level, LINE, method, path, self._status, 1000 * seconds, extra=told)
