"""Readiness as clients see it."""

from typing import Literal

from pydantic import Field

from api.values import View


class Check(View):
    """One thing that the service stands on."""

    ok: bool
    detail: str
    figures: dict[str, int] = Field(default_factory=dict, description="What was counted.")


class Health(View):
    """Whether the service can serve."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]
