"""The route that Prometheus scrapes."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.dependencies import CallerDep
from api.errors import RequestRefused
from api.openapi import problems

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=PlainTextResponse,
    responses=problems(403),
)
def metrics(request: Request, caller: CallerDep) -> PlainTextResponse:
    """Jobs, queues, workers and requests of everybody, as Prometheus reads them; for admins."""
    if not caller.sees_everything:
        raise RequestRefused(
            403, "This tells of everybody's jobs: it needs an API key with the scope 'admin'."
        )
    text = generate_latest(request.app.state.registry)
    return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)
