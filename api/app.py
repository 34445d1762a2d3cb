"""The HTTP API: parse, record in the ledger, send the id, return.

Around the routes lie layers, the outermost first: safe headers, a request's id, its place in logs
and metrics, known hosts (a guard against DNS rebinding), limits of size and time, the API key.
No CORS header is ever sent.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import docs, errors, openapi
from api.auth import Authenticated
from api.corpora.routes import router as corpora
from api.dependencies import Resources
from api.headers import SafeHeaders
from api.health.routes import router as health
from api.hosts import AllowedHosts
from api.jobs import actions, logs, polling
from api.jobs.routes import router as jobs
from api.jobs.watching import Watcher
from api.limits import Bounded
from api.metrics.collector import registry_of
from api.metrics.observing import Observed, Requests
from api.metrics.routes import router as metrics
from api.mixtures.routes import router as mixtures
from api.rates import Rates
from api.request_id import RequestIds
from api.settings import Settings
from api.trainings.routes import router as trainings
from workers import tracing

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; settings come from the environment unless they are given."""
    chosen = settings or Settings()
    resources = Resources(chosen)
    app = FastAPI(
        title="mixlab", lifespan=_lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.settings = chosen
    app.state.resources = resources
    app.state.registry = registry_of(resources)
    app.state.watcher = Watcher(resources.ledger, places=chosen.max_streams)
    # The last one added is the outermost.
    app.add_middleware(Authenticated, ledger=resources.ledger, settings=chosen, rates=Rates(chosen))
    app.add_middleware(Bounded, settings=chosen)
    app.add_middleware(AllowedHosts, allowed=tuple(chosen.allowed_hosts))
    app.add_middleware(Observed, requests=Requests(app.state.registry))
    app.add_middleware(RequestIds)
    _with_safe_headers(app)
    errors.install(app)
    openapi.install(app)
    docs.install(app)
    nouns = (corpora, mixtures, trainings, jobs, health, metrics)
    # Not within each other: a route of a router within another is counted without its prefix.
    # The first is what is asked the most: each is tried in turn.
    for router in (polling.router, *nouns, actions.router, logs.router):
        app.include_router(router)
    return app


def _with_safe_headers(app: FastAPI) -> None:
    """Around all, since Starlette answers unexpected errors outside of every added layer."""
    inner = app.build_middleware_stack
    app.build_middleware_stack = lambda: SafeHeaders(inner())  # type: ignore[method-assign]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    resources: Resources = app.state.resources
    try:
        await run_in_threadpool(resources.ledger)
    except errors.LedgerUnreachable as error:
        # The database may come up later; /readyz says so until then.
        log.warning("starting without the ledger: %s", error)
    yield
    app.state.watcher.close()
    await run_in_threadpool(resources.close)
    await run_in_threadpool(tracing.flush)
