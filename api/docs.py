"""`/docs`: the OpenAPI document as one plain page, without a script.

Swagger UI would be 1.6 MB of somebody else's script, taken from a third host or kept here, which
asks people to paste an API key into a page. What it adds is a form; curl, `mixlab` and whatever
reads /openapi.json have that too. A page without scripts needs no trust and no exception to the
Content-Security-Policy but its own style.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.responses import HTMLResponse

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 52rem; padding: 0 1rem }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { overflow-x: auto }
h3 { margin: 2rem 0 .25rem } table { border-collapse: collapse } td { padding: .1rem 1rem .1rem 0;
vertical-align: top } summary { cursor: pointer } a { color: inherit }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape()
)


def install(app: FastAPI) -> None:
    """Serve the page."""

    async def page(_request: Request) -> HTMLResponse:
        return HTMLResponse(rendered(app.openapi()), headers={"Content-Security-Policy": POLICY})

    app.add_route("/docs", page, include_in_schema=False)


def rendered(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    groups = [(tag, list(_operations(document, tag["name"]))) for tag in document["tags"]]
    return _TEMPLATES.get_template("docs.html").render(
        info=document["info"],
        groups=groups,
        schemas={
            name: (schema.get("description", ""), json.dumps(schema, indent=2))
            for name, schema in sorted(document["components"]["schemas"].items())
        },
        style=STYLE,
    )


def _operations(document: Mapping[str, Any], tag: str) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield {
                    "method": method.upper(),
                    "path": path,
                    "operation": operation,
                    "parameters": [
                        _found(document, one) for one in operation.get("parameters", [])
                    ],
                    "body": _body_of(operation),
                }


def _found(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameter, or the one that it refers to."""
    name = str(parameter.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["parameters"][name] if name else parameter
    return found


def _body_of(operation: Mapping[str, Any]) -> str | None:
    """The name of the schema that a request's body has."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    reference = content.get("schema", {}).get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]
