"""What OpenAPI can't learn from types: problem responses, headers and links of a 202.

Statuses come from `api/errors.py`; a route names the errors that it may meet.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from api.errors import MEDIA_TYPE, TITLES, status_of, title_of
from mixlab import __version__
from mixlab.errors import MixlabError

Responses = dict[int | str, dict[str, Any]]

TAGS = [
    {"name": "corpora", "description": "Domains of text, their tokens and entropies."},
    {"name": "mixtures", "description": "Fit a law, solve for proportions, register your own."},
    {"name": "trainings", "description": "Train with a mixture; what was measured and consumed."},
    {"name": "jobs", "description": "Long work: state, progress, cancellation."},
    {"name": "health", "description": "Is the process alive, can it serve."},
]


class ProblemItem(BaseModel):
    """One place in the request that doesn't validate."""

    pointer: str | None = Field(None, description="JSON pointer into the body.")
    parameter: str | None = Field(None, description="Name of a query parameter.")
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:mixlab:error:infeasible-constraints"])
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[ProblemItem] | None = None


def problems(*kinds: type[MixlabError] | int, body: bool = False) -> Responses:
    """Declared problem responses: of error classes, of bare statuses, and of every body."""
    common = (400, 413, 415, 422, 503) if body else (400, 503)
    found: dict[int, list[str]] = {}
    for kind in (*kinds, *common):
        if isinstance(kind, int):
            found.setdefault(kind, []).append(TITLES[kind][1])
        else:
            found.setdefault(status_of(kind), []).append(title_of(kind))
    return {
        status: {
            "description": "; ".join(titles),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, titles in sorted(found.items())
    }


def created(what: str) -> Responses:
    """The 201 of a thing that has a URL of its own."""
    return {201: {"description": f"The {what}.", "headers": {"Location": _header("Its URL.")}}}


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


def _job_link(operation: str, description: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "parameters": {"job_id": "$response.body#/id"},
        "description": description,
    }


ACCEPTED: Responses = {
    202: {
        "description": "The job is recorded; a worker will do it.",
        "headers": {
            "Location": _header("URL of the job."),
            "Retry-After": _header("Seconds to wait before asking for the job.", "integer"),
        },
        "links": {
            "job": _job_link("getJob", "Ask how far the job is."),
            "cancel": _job_link("cancelJob", "Ask the job to stop."),
        },
    }
}


def install(app: FastAPI) -> None:
    """Let the app's schema hold the problem schemas and OpenAPI 3.1."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title="mixlab",
                version=__version__,
                openapi_version="3.1.0",
                summary="In what proportions to train a language model on your domains.",
                routes=app.routes,
                tags=TAGS,
            )
            _add_problems(document)
            _drop_default_validation(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _add_problems(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem


def _drop_default_validation(document: dict[str, Any]) -> None:
    """Take out FastAPI's own 422, which it declares wherever a path has a parameter.

    An id that can't be one is a 404 here; routes that do answer 422 declare it themselves.
    """
    schemas = document["components"]["schemas"]
    for methods in document["paths"].values():
        for operation in methods.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
