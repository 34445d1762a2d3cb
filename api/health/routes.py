"""Routes that say whether the process lives and whether it can serve.

A broker that is down doesn't make the service unready: requests are recorded,
and their jobs start once it is back.
"""

import logging
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import Resources, ResourcesDep
from api.errors import LedgerUnreachable, problem
from api.health.schemas import Check, Health
from api.openapi import problems
from mixlab.errors import MixlabError

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="isAlive", responses=problems())
async def livez() -> dict[str, str]:
    """The process answers; nothing else is looked at."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="isReady", response_model=Health, responses=problems(503))
def readyz(resources: ResourcesDep) -> Health | JSONResponse:
    """Whether the ledger and the broker answer; `degraded` where only the broker doesn't."""
    checks = {"ledger": _ledger(resources), "broker": _broker(resources)}
    if not checks["ledger"].ok:
        shown: dict[str, Any] = {name: check.model_dump() for name, check in checks.items()}
        return problem(
            503,
            checks["ledger"].detail,
            slug="not-ready",
            title="The service can't serve",
            instance="/readyz",
            headers={"Retry-After": "5"},
            checks=shown,
        )
    return Health(status="ready" if checks["broker"].ok else "degraded", checks=checks)


def _ledger(resources: Resources) -> Check:
    try:
        resources.ledger().check()
    except MixlabError as error:
        return Check(ok=False, detail=str(error))
    except (LedgerUnreachable, SQLAlchemyError) as error:
        # Only the class: drivers quote the URL, and its password with it.
        log.warning("the ledger doesn't answer: %s", type(error).__name__)
        return Check(ok=False, detail=f"The ledger doesn't answer ({type(error).__name__}).")
    return Check(ok=True, detail="The ledger answers at this version's schema.")


def _broker(resources: Resources) -> Check:
    if resources.dispatcher.reachable():
        return Check(ok=True, detail="The broker answers.")
    return Check(ok=False, detail="The broker doesn't answer; jobs stay queued until it does.")
