"""A client that holds every answer to what OpenAPI says of it."""

import re
from typing import Any

import httpx
from fastapi.testclient import TestClient

HERE = ("127.0.0.1", 50000)  # who asks from this machine needs no key before there is one
DOCUMENT: dict[str, Any] = {}


class DeclaredClient(TestClient):
    """Asks from this machine; fails where an answer's status, type or id header isn't declared."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **{"client": HERE, "raise_server_exceptions": False} | options)
        if not DOCUMENT:  # the same of every app, and slow to make
            DOCUMENT.update(app.openapi())

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = super().send(request, **options)
        operation = operation_for(DOCUMENT, request)
        if operation is not None:
            assert_declared(operation, answer)
        assert answer.headers["X-Request-ID"]
        return answer


def operation_for(document: dict[str, Any], request: httpx.Request) -> dict[str, Any] | None:
    """What the document says of a request's operation; None where it is no operation."""
    path = request.url.path
    for template in sorted(document["paths"], key=lambda each: each.count("{")):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            methods: dict[str, Any] = document["paths"][template]
            if request.method.lower() in methods:
                found: dict[str, Any] = methods[request.method.lower()]
                return found
    return None


def assert_declared(operation: dict[str, Any], answer: httpx.Response) -> None:
    """Fail where an answer's status, or the type of its body, isn't among the responses."""
    told = f"{operation['operationId']} answered {answer.status_code}"
    response = operation["responses"].get(str(answer.status_code))
    assert response is not None, f"{told}, which isn't declared: {answer.text[:300]}"
    if answer.content:
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in response.get("content", {}), f"{told} with {kind}, which isn't declared"
