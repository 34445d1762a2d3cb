"""What the service promises beyond its schema, as further checks of Schemathesis."""

from typing import Any

import schemathesis


@schemathesis.check
def errors_are_problems(ctx: Any, response: Any, case: Any) -> None:
    """Every error is a problem document that says its own status and the request's id."""
    if response.status_code < 400:
        return
    kind = response.headers["content-type"][0]
    assert kind == "application/problem+json", f"{response.status_code} came as {kind}"
    if response.request.method == "HEAD":
        return
    problem = response.json()
    assert problem["status"] == response.status_code
    if "idempotent-replayed" not in response.headers:  # else it is the first request's answer
        assert problem["request_id"] == response.headers["x-request-id"][0]
    assert problem["detail"]


@schemathesis.check
def what_is_refused_says_when_to_come_back(ctx: Any, response: Any, case: Any) -> None:
    """Whoever is told to come back is told when."""
    if response.status_code in (429, 503):
        assert int(response.headers["retry-after"][0]) >= 1


@schemathesis.check
def what_is_made_can_be_looked_at(ctx: Any, response: Any, case: Any) -> None:
    """A 201 or 202 that makes something says where it is."""
    if response.status_code == 201 or (response.status_code == 202 and "/jobs/" not in case.path):
        assert response.headers["location"][0].startswith(("/jobs/", "/corpora/", "/mixtures/"))


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Keep a failure, unless it is that an unknown header was passed over, as HTTP asks for."""
    return "in header - object with unexpected properties" not in failure.message
