"""The HTTP API: parse, record in the ledger, send the id, return.

It answers only to the hosts that it is told (a guard against DNS rebinding),
sends no CORS headers, and has no accounts: it belongs on a loopback address or
behind a proxy that knows its users.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import errors, openapi
from api.corpora.routes import router as corpora
from api.dependencies import Resources
from api.health.routes import router as health
from api.hosts import AllowedHosts
from api.jobs.routes import router as jobs
from api.mixtures.routes import router as mixtures
from api.settings import Settings
from api.trainings.routes import router as trainings

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; settings come from the environment unless they are given."""
    chosen = settings or Settings()
    app = FastAPI(title="mixlab", lifespan=_lifespan, redoc_url=None, redirect_slashes=False)
    app.state.settings = chosen
    app.state.resources = Resources(chosen)
    app.add_middleware(AllowedHosts, allowed=tuple(chosen.allowed_hosts))
    errors.install(app)
    openapi.install(app)
    for router in (corpora, mixtures, trainings, jobs, health):
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    resources: Resources = app.state.resources
    try:
        await run_in_threadpool(resources.ledger)
    except errors.LedgerUnreachable as error:
        # The database may come up later; /readyz says so until then.
        log.warning("starting without the ledger: %s", error)
    yield
    await run_in_threadpool(resources.close)
