"""Readiness as clients see it."""

from typing import Literal

from api.values import View


class Check(View):
    """One thing that the service needs."""

    ok: bool
    detail: str


class Health(View):
    """Whether the service can serve."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]
