"""Routes that say whether the process lives and whether it can serve; open to everybody."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.dependencies import ResourcesDep
from api.errors import problem
from api.health.checks import STOP_THE_SERVICE, all_checks
from api.health.schemas import Health
from api.openapi import problems

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="isAlive", responses=problems())
async def livez() -> dict[str, str]:
    """The process answers; nothing else is looked at."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="isReady", response_model=Health, responses=problems(503))
def readyz(resources: ResourcesDep) -> Health | JSONResponse:
    """Whether the service can serve; `degraded` where jobs must wait for something."""
    return _answer(resources, "/readyz")


@router.get("/healthz", operation_id="isHealthy", response_model=Health, responses=problems(503))
def healthz(resources: ResourcesDep) -> Health | JSONResponse:
    """The same as `/readyz`, under the name that some proxies ask for."""
    return _answer(resources, "/healthz")


def _answer(resources: ResourcesDep, path: str) -> Health | JSONResponse:
    checks = all_checks(resources)
    stopped = [checks[name] for name in STOP_THE_SERVICE if not checks[name].ok]
    if not stopped:
        good = all(check.ok for check in checks.values())
        return Health(status="ready" if good else "degraded", checks=checks)
    shown: dict[str, Any] = {name: check.model_dump() for name, check in checks.items()}
    return problem(
        503,
        stopped[0].detail,
        slug="not-ready",
        title="The service can't serve",
        instance=path,
        headers={"Retry-After": "5"},
        checks=shown,
    )
