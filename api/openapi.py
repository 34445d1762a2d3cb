"""What OpenAPI can't learn from types: problem responses, headers, links, streams.

Statuses come from `api/errors.py`; a route names the errors that it may meet.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from api import auth, request_id
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
    request_id: str | None = Field(None, description="By which the service's log knows it.")
    errors: list[ProblemItem] | None = None


def problems(*kinds: type[MixlabError] | int, body: bool = False) -> Responses:
    """Declared problem responses: of error classes, of bare statuses, and of every body."""
    common = (400, 406, 413, 415, 422, 500, 503) if body else (400, 406, 500, 503)
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


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


LOCATION = {"Location": _header("Its URL.")}
RETRY_AFTER = {"Retry-After": _header("Seconds to wait before asking again.", "integer")}
ETAG = {"ETag": _header("Of this version of the job and of its children.")}
PREFERENCE_APPLIED = {"Preference-Applied": _header("The wait that was granted: `wait=N`.")}
REPLAYED = {"Idempotent-Replayed": _header("`true` on an answer given before.")}

EVENT_STREAM: dict[str, Any] = {
    "description": "A page of events, or a stream of those that happen.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "string",
                "description": "Server-sent events: `event`, `data` in JSON, and the number of an "
                "event as its `id`; a comment every 15 s while nothing happens.",
            },
            "example": 'event: stage\ndata: {"job_id": "job_0199f2c4", "seq": 3, "at": '
            '"2030-01-01T00:00:00Z", "event": "stage", "data": {"stage": "fit"}}\n'
            "id: 3\n\n",
        }
    },
}


def job_links() -> dict[str, Any]:
    """From an answer that shows a job to what can be asked of it."""
    operations = {
        "job": ("getJob", "Ask how far the job is."),
        "events": ("listJobEvents", "Follow what happens to the job."),
        "cancel": ("cancelJob", "Ask the job to stop."),
    }
    return {
        name: {
            "operationId": operation,
            "parameters": {"job_id": "$response.body#/id"},
            "description": description,
        }
        for name, (operation, description) in operations.items()
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
            auth.describe(document, lambda status: problems(status)[status])
            _add_limits(document)
            _add_request_ids(document)
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


def _add_limits(document: dict[str, Any]) -> None:
    """Say how requests are refused that are too large or too slow (limits.py)."""
    for methods in document["paths"].values():
        for operation in methods.values():
            statuses = (408, 414, 431) if "requestBody" in operation else (414, 431)
            for status in statuses:
                operation["responses"].setdefault(str(status), problems(status)[status])


def _add_request_ids(document: dict[str, Any]) -> None:
    """Say that every answer has the request's id, and every request may bring one."""
    components = document["components"]
    components["headers"] = {
        request_id.HEADER: _header("The request's id, as it was sent or made here.")
    }
    components["parameters"] = {
        request_id.HEADER: {
            "name": request_id.HEADER, "in": "header", "required": False,
            "description": "An id of your own for this request, of up to 128 letters, digits and "
            "._:/+=-; anything else is replaced.",
            "schema": {"type": "string"},
        }
    }  # fmt: skip
    for methods in document["paths"].values():
        for operation in methods.values():
            own = operation.setdefault("parameters", [])
            own.append({"$ref": f"#/components/parameters/{request_id.HEADER}"})
            for response in operation["responses"].values():
                headers = response.setdefault("headers", {})
                headers[request_id.HEADER] = {"$ref": f"#/components/headers/{request_id.HEADER}"}
