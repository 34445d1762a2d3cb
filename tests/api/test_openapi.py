import json
import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from api.corpora.schemas import CorpusBody
from api.trainings.schemas import TrainingBody

ROUTES = {
    ("post", "/corpora"), ("get", "/corpora"), ("get", "/corpora/{corpus_id}"),
    ("post", "/corpora/{corpus_id}/entropy"), ("post", "/mixtures/fit"),
    ("post", "/mixtures/solve"), ("post", "/mixtures/predict"), ("post", "/mixtures/design"),
    ("post", "/mixtures"), ("get", "/mixtures"),
    ("get", "/mixtures/{mixture_id}"),
    ("post", "/trainings"), ("get", "/trainings/{training_id}"), ("get", "/jobs"),
    ("get", "/jobs/{job_id}"), ("post", "/jobs/{job_id}/cancel"),
    ("post", "/jobs/{job_id}/pause"), ("post", "/jobs/{job_id}/resume"),
    ("get", "/jobs/{job_id}/children"), ("get", "/jobs/{job_id}/events"),
    ("get", "/jobs/{job_id}/logs"), ("get", "/livez"), ("get", "/readyz"), ("get", "/healthz"),
    ("get", "/metrics"),
}  # fmt: skip
PROBLEM = "application/problem+json"


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    # Through JSON, as a client gets it.
    found: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    return found


@pytest.fixture
def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_routes_are_these(
    document: dict[str, Any], operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert set(operations) == ROUTES
    assert document["openapi"].startswith("3.1")


def test_every_operation_has_an_id_a_tag_and_words(
    document: dict[str, Any], operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))
    known = {tag["name"] for tag in document["tags"]}
    for operation in operations.values():
        assert operation["description"]
        assert set(operation["tags"]) <= known


def test_every_error_is_declared_as_a_problem(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for place, operation in operations.items():
        errors = {s: r for s, r in operation["responses"].items() if s[0] in "45"}
        assert {"400", "500", "503"} <= set(errors), place
        if "{" in place[1]:
            assert "404" in errors, place
        if "requestBody" in operation:
            assert {"413", "415", "422"} <= set(errors), place
        for response in errors.values():
            schema = response["content"][PROBLEM]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, place


def test_a_202_says_where_the_job_is_and_links_to_it(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    known = {operation["operationId"] for operation in operations.values()}
    accepting = [
        operation["responses"]["202"]
        for (_, path), operation in operations.items()
        if "202" in operation["responses"] and not path.startswith("/jobs/")
    ]
    assert len(accepting) == 3
    for response in accepting:
        assert {"Location", "Retry-After", "Idempotent-Replayed"} <= set(response["headers"])
        links = {link["operationId"] for link in response["links"].values()}
        assert links == {"getJob", "cancelJob", "listJobEvents"}
        assert links <= known


def test_what_makes_something_takes_a_key_and_can_only_be_checked(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    making = [o for o in operations.values() if set(o["responses"]) & {"201", "202"}]
    making = [o for o in making if "jobs" not in o["tags"]]
    assert len(making) == 6
    for operation in making:
        names = {each.get("name") for each in operation["parameters"]}
        assert {"Idempotency-Key", "validate_only"} <= names
        assert ("Prefer" in {each.get("name") for each in operation["parameters"]}) == (
            "202" in operation["responses"]
        )
        assert {"200", "400", "409", "422", "429"} <= set(operation["responses"])


def test_every_answer_is_declared_with_its_requests_id(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for operation in operations.values():
        for response in operation["responses"].values():
            assert "X-Request-ID" in response["headers"]
            assert response["description"]


def test_events_are_declared_as_a_page_and_as_a_stream(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    content = operations["get", "/jobs/{job_id}/events"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert content["application/json"]["schema"]["$ref"].endswith("/EventPage")


def test_every_body_has_an_example_that_its_schema_accepts(
    document: dict[str, Any], operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    for operation in operations.values():
        if "requestBody" in operation:
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
            assert schema["additionalProperties"] is False
            for example in schema["examples"]:
                assert set(schema.get("required", [])) <= set(example) <= set(schema["properties"])


def test_every_reference_points_at_something(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name


STARTUP = """
import sys
from api.app import create_app
from api.settings import Settings
from fastapi.testclient import TestClient
settings = Settings(home=sys.argv[1], broker_url="redis://127.0.0.1:1/0", allowed_hosts=["x"])
with TestClient(create_app(settings), base_url="http://x", client=("127.0.0.1", 1)) as client:
    assert client.get("/jobs").status_code == 200
print(*sorted(set(sys.modules) & {"torch", "scipy", "pandas", "matplotlib", "pyarrow"}))
"""


def test_the_api_starts_without_any_heavy_library(tmp_path: Any) -> None:
    """What keeps its start short; `make bench` times it."""
    done = subprocess.run(
        [sys.executable, "-c", STARTUP, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("body", [TrainingBody, CorpusBody])
def test_examples_of_bodies_are_ones(body: type[BaseModel]) -> None:
    examples: Any = (body.model_config.get("json_schema_extra") or {})["examples"]  # type: ignore[index]
    read = [body.model_validate(example).model_dump(exclude_unset=True) for example in examples]
    assert read
    assert read == examples
