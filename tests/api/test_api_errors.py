from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.errors import STATUS, status_of
from api.strict import parse
from mixlab import errors
from mixlab.errors import MixlabError
from tests.api.declared import HERE

PROBLEM = "application/problem+json"


def tree(kind: type[MixlabError]) -> Iterator[type[MixlabError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_every_error_has_a_status() -> None:
    leaves = {kind for kind in tree(MixlabError) if not kind.__subclasses__()}
    assert leaves <= set(STATUS)
    # Beside leaves only the bases that some code raises as they are.
    assert set(STATUS) - leaves == {errors.Unknown, errors.FetchFailed, errors.Conflict}


def test_a_base_class_without_a_status_is_our_fault() -> None:
    assert status_of(MixlabError) == 500


def assert_problem(answer: Any, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    found: dict[str, Any] = answer.json()
    assert found["type"] == f"urn:mixlab:error:{slug}"
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    assert_problem(client.get("/nothing"), 404, "not-found")
    assert_problem(client.put("/livez"), 405, "method-not-allowed")


@pytest.mark.parametrize(
    "path", ["/corpora/corpus_1", "/corpora/..%2f..%2fetc", "/corpora/%00", "/corpora/" + "x" * 500]
)
def test_an_id_that_nothing_has_is_404_however_it_looks(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_places_in_a_body_are_json_pointers(client: TestClient) -> None:
    body = {"name": "n", "domains": {"a/b": {"paths": []}, "c": {"paths": ["/x"], "other": 1}}}
    found = assert_problem(client.post("/corpora", json=body), 422, "invalid-request")
    assert {item["pointer"] for item in found["errors"]} == {
        "/domains/a~1b/paths",
        "/domains/c/other",
    }


def test_a_body_must_be_json(client: TestClient) -> None:
    form = client.post("/corpora", content=b"a=b", headers={"content-type": "text/plain"})
    assert_problem(form, 415, "unsupported-media-type")
    json = {"content-type": "application/json"}
    for broken in (b"{", b"\xff{}", b"[" * 200_000, b'{"budget_tokens": ' + b"9" * 5000 + b"}"):
        answer = client.post("/corpora", content=broken, headers=json)
        assert_problem(answer, 400, "malformed-request")
    assert_problem(client.post("/corpora", headers=json), 422, "invalid-request")


def test_a_name_that_stands_twice_is_refused(client: TestClient) -> None:
    text = '{"name": "n", "domains": {"a": {"paths": ["/x"]}, "a": {"paths": ["/y"]}}}'
    answer = client.post(
        "/corpora", content=text, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert "'a' stands twice" in assert_problem(answer, 422, "invalid-request")["detail"]


def test_names_that_differ_in_case_are_two_names() -> None:
    assert parse(b'{"A": 1, "a": 2}') == {"A": 1, "a": 2}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_must_be_finite(client: TestClient, corpus_id: str, number: str) -> None:
    text = f'{{"corpus_id": "{corpus_id}", "proportions": {{"code": {number}, "legal": 1}}}}'
    answer = client.post("/mixtures", content=text, headers={"content-type": "application/json"})
    assert_problem(answer, 422, "invalid-request")


def test_a_body_above_the_limit_is_refused_announced_or_chunked(client: TestClient) -> None:
    json = {"content-type": "application/json"}
    assert_problem(
        client.post("/corpora", content=b" " * 1_000_001, headers=json), 413, "body-too-large"
    )

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    assert_problem(client.post("/corpora", content=chunks(), headers=json), 413, "body-too-large")


def test_other_hosts_are_refused(client: TestClient) -> None:
    for host in ("evil.example", "testserver.evil.example", "", "127.0.0.1"):
        assert_problem(client.get("/livez", headers={"host": host}), 400, "host-not-allowed")
    assert client.get("/livez", headers={"host": "TestServer:8712"}).status_code == 200


def test_another_sites_page_changes_nothing(client: TestClient, corpus_id: str) -> None:
    path = f"/corpora/{corpus_id}/entropy"
    for origin in ("https://evil.example", "null", "http://[", "http://testserver.evil.example"):
        assert_problem(client.post(path, headers={"origin": origin}), 400, "origin-not-allowed")
    assert client.get("/jobs").json()["jobs"] == []
    assert client.post(path, headers={"origin": "http://testserver:8712"}).status_code == 202


def test_no_origin_is_invited(client: TestClient) -> None:
    answer = client.get("/livez", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_an_unexpected_error_is_a_problem_that_tells_nothing(app: FastAPI) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret")

    with TestClient(app, client=HERE, raise_server_exceptions=False) as client:
        answer = client.get("/broken", headers={"X-Request-ID": "mine.7"})
    found = assert_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert found["request_id"] == answer.headers["X-Request-ID"] == "mine.7"


def test_every_answer_has_the_requests_id_and_only_one_fit_for_a_log_is_taken(
    client: TestClient,
) -> None:
    for path in ("/livez", "/nothing", "/jobs", "/jobs/job_none", "/jobs?page_size=-1"):
        taken = client.get(path, headers={"X-Request-ID": "trace-1/span:2"})
        assert taken.headers["X-Request-ID"] == "trace-1/span:2"
        if taken.status_code >= 400:
            assert taken.json()["request_id"] == "trace-1/span:2"
        made = {client.get(path).headers["X-Request-ID"] for _ in range(2)}
        assert len(made) == 2
    for unfit in (b"", b"two words", b"x" * 129, b"a\tb", b"'); DROP TABLE", "é".encode(), b"\xff"):
        answer = client.get("/livez", headers={"X-Request-ID": unfit})
        assert len(answer.headers["X-Request-ID"]) == 32
    elsewhere = client.get("/livez", headers={"host": "evil.example", "X-Request-ID": "x"})
    assert assert_problem(elsewhere, 400, "host-not-allowed")["request_id"] == "x"


def test_other_methods_are_told_which_are_answered(client: TestClient) -> None:
    for path in ("/jobs", "/corpora", "/trainings", "/livez", "/jobs/job_1"):
        allowed = {"/corpora": "GET, POST", "/trainings": "POST"}.get(path, "GET")
        for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW"):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["Allow"]) == (405, allowed), method
            assert answer.headers["content-type"] == PROBLEM
            if method != "HEAD":
                detail = assert_problem(answer, 405, "method-not-allowed")["detail"]
                assert allowed in detail


def test_unknown_paths_are_problems_whatever_the_method(client: TestClient) -> None:
    for path in ("/", "/jobs/", "//jobs", "/jobs/job_1/x", "/%2e%2e/etc", "/corpora/%0a"):
        for method in ("GET", "POST", "HEAD", "DELETE"):
            answer = client.request(method, path)
            assert answer.status_code in (404, 405), (method, path)
            assert answer.headers["content-type"] == PROBLEM


def test_a_query_that_would_be_passed_over_is_refused(client: TestClient) -> None:
    for query in ("state=queued&state=failed", "stat=queued", "page_size=1&x", "a[]=1", "%00=1"):
        found = assert_problem(client.get(f"/jobs?{query}"), 422, "invalid-request")
        assert found["errors"][0]["in"] == "query"


def test_endless_queries_cost_nothing(client: TestClient) -> None:
    found = assert_problem(client.get("/jobs?" + "kind=train&" * 700), 422, "invalid-request")
    assert "700 times" in found["detail"]
    many = client.get("/jobs?" + "&".join(f"a{number}" for number in range(1000)))
    assert len(assert_problem(many, 422, "invalid-request")["errors"]) == 20


def test_answers_are_of_an_accepted_type(client: TestClient) -> None:
    for accept, status in {
        "text/html": 406, "text/event-stream": 406, "application/json;q=0": 406,
        "image/*, application/json;q=0.0": 406, "*/*": 200, "application/*": 200, "": 200,
        "text/html, application/json;q=0.1": 200, "text/html,*/*;q=0.8": 200, ",;,": 200,
        "application/json;q=many": 200, "Application/JSON; charset=utf-8": 200,
    }.items():  # fmt: skip
        answer = client.get("/jobs", headers={"accept": accept})
        assert answer.status_code == status, accept
        if status == 406:
            assert "application/json" in assert_problem(answer, 406, "not-acceptable")["detail"]
