from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, MixtureRecord, Queue
from mixlab.recipes import proxy_tiny

Rows = list[dict[str, Any]]


def slug(answer: Any) -> str:
    return str(answer.json()["type"]).removeprefix("urn:mixlab:error:")


def test_a_fit_of_a_corpus_is_a_job_that_knows_the_whole_problem(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    answer = client.post(
        "/mixtures/fit",
        json={
            "corpus_id": corpus_id,
            "budget_tokens": 1_000_000,
            "constraints": {"lower": {"code": 0.2}},
            "objective": {"weights": {"code": 2, "legal": 1}},
        },
    )
    assert answer.status_code == 202, answer.text
    job = ledger.job(answer.json()["id"])
    assert (job.kind, job.queue) == (JobKind.FIT_MIXTURE, Queue.CPU)
    assert job.payload == {
        "corpus_id": corpus_id,
        "observations": None,
        "recipe": "proxy_tiny",
        "law": "bimix",
        "budget_tokens": 1_000_000,
        "objective": {"weights": {"code": 2, "legal": 1}},
        "constraints": {"lower": {"code": 0.2}, "upper": {}, "max_epochs": 4.0},
        "design": {"count": 14, "floor": 0.03, "seed": 0, "repeated_seeds": 2},
        "tokens_available": None,
        "tokens_per_step": proxy_tiny().tokens_per_step,
    }


def test_a_fit_of_a_table_takes_its_tokens_per_step_from_the_rows(
    client: TestClient, ledger: Ledger, observation_rows: Rows
) -> None:
    answer = client.post(
        "/mixtures/fit", json={"observations": observation_rows, "budget_tokens": 10**9}
    )
    assert answer.status_code == 202, answer.text
    payload = ledger.job(answer.json()["id"]).payload
    assert payload["observations"] == observation_rows
    assert payload["tokens_per_step"] == 4096
    assert payload["corpus_id"] is None


def test_a_table_of_tokens_alone_counts_tokens(
    client: TestClient, ledger: Ledger, observation_rows: Rows
) -> None:
    rows = [{k: v for k, v in row.items() if k != "step"} for row in observation_rows]
    body = {"observations": rows, "budget_tokens": 10**9}
    answer = client.post("/mixtures/fit", json=body)
    assert ledger.job(answer.json()["id"]).payload["tokens_per_step"] == 1
    wrong = client.post("/mixtures/fit", json={**body, "tokens_per_step": 4096})
    assert (wrong.status_code, slug(wrong)) == (422, "invalid-table")


def test_a_table_of_steps_alone_needs_the_tokens_of_a_step(
    client: TestClient, observation_rows: Rows
) -> None:
    rows = [{k: v for k, v in row.items() if k != "tokens"} for row in observation_rows]
    body = {"observations": rows, "budget_tokens": 10**9}
    without = client.post("/mixtures/fit", json=body)
    assert (without.status_code, slug(without)) == (422, "invalid-table")
    assert "tokens_per_step" in without.json()["detail"]
    assert client.post("/mixtures/fit", json={**body, "tokens_per_step": 512}).status_code == 202


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"recipe": "huge"}, 422, "unknown-recipe"),
        ({"law": "newton"}, 422, "unknown-law"),
        ({"corpus_id": "corpus_none"}, 404, "unknown-corpus"),
        ({"corpus_id": None}, 422, "invalid-table"),
        ({"budget_tokens": -5}, 422, "invalid-budget"),
        ({"budget_tokens": 0}, 422, "invalid-budget"),
        ({"budget_tokens": 1.5}, 422, "invalid-request"),
        ({"budget_tokens": "many"}, 422, "invalid-request"),
        ({"constraints": {"lower": {"code": 0.6, "legal": 0.6}}}, 422, "infeasible-constraints"),
        ({"constraints": {"upper": {"code": 0.2, "legal": 0.2, "talk": 0.2}}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"lower": {"code": 0.5}, "upper": {"code": 0.4}}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"lower": {"poems": 0.1}}}, 422, "infeasible-constraints"),
        ({"constraints": {"lower": {"code": 1.1}}}, 422, "invalid-request"),
        ({"constraints": {"max_epochs": 0}}, 422, "invalid-request"),
        ({"tokens_available": {"code": 10, "legal": 10, "talk": 10}}, 422,
         "infeasible-constraints"),
        ({"objective": {"weights": {"poems": 1}}}, 422, "invalid-mixture"),
        ({"objective": {"weights": {"code": 0}}}, 422, "invalid-mixture"),
        ({"objective": {"weights": {"code": -1}}}, 422, "invalid-request"),
        ({"design": {"count": 1}}, 422, "too-few-mixtures"),
        ({"design": {"floor": 0.4}}, 422, "invalid-mixture"),
        ({"design": {"colour": "red"}}, 422, "invalid-request"),
    ],
)  # fmt: skip
def test_a_fit_that_cannot_succeed_is_refused_at_once(
    client: TestClient, corpus_id: str, change: dict[str, Any], status: int, expected: str
) -> None:
    body = {"corpus_id": corpus_id, "budget_tokens": 1_000_000, **change}
    answer = client.post("/mixtures/fit", json=body)
    assert (answer.status_code, slug(answer)) == (status, expected), answer.text
    assert client.get("/jobs").json()["jobs"] == []


def test_epochs_are_checked_once_a_corpus_is_measured(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    ledger.record_tokens(corpus_id, {d: {"train_tokens": 1000} for d in ("code", "legal", "talk")})
    body = {"corpus_id": corpus_id, "budget_tokens": 1_000_000}
    answer = client.post("/mixtures/fit", json=body)
    assert (answer.status_code, slug(answer)) == (422, "infeasible-constraints")
    assert "epochs" in answer.json()["detail"]
    answer = client.post("/mixtures/fit", json={**body, "constraints": {"max_epochs": None}})
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"loss.code": -1.0}, "invalid-loss"),
        ({"loss.code": "low"}, "invalid-table"),
        ({"mixture.code": 0.9}, "invalid-table"),
        ({"mixture.code": -0.2}, "invalid-table"),
    ],
)
def test_a_bad_row_is_refused_at_once(
    client: TestClient, observation_rows: Rows, change: dict[str, Any], expected: str
) -> None:
    rows = [{**observation_rows[0], **change}, *observation_rows[1:]]
    answer = client.post("/mixtures/fit", json={"observations": rows, "budget_tokens": 10**9})
    assert (answer.status_code, slug(answer)) == (422, expected), answer.text


def test_too_few_mixtures_says_how_many_are_needed(
    client: TestClient, observation_rows: Rows
) -> None:
    body = {"observations": observation_rows[:4], "budget_tokens": 10**9}
    answer = client.post("/mixtures/fit", json=body)
    assert (answer.status_code, slug(answer)) == (422, "too-few-mixtures")
    assert "needs at least" in answer.json()["detail"]


def test_a_table_must_speak_of_the_corpus_beside_it(
    client: TestClient, ledger: Ledger, corpus_id: str, observation_rows: Rows
) -> None:
    body = {"corpus_id": corpus_id, "observations": observation_rows, "budget_tokens": 10**6}
    unmeasured = client.post("/mixtures/fit", json=body)
    assert (unmeasured.status_code, slug(unmeasured)) == (409, "not-ready")
    ledger.record_tokens(corpus_id, {d: {"train_tokens": 10**7} for d in ("code", "legal", "talk")})
    assert client.post("/mixtures/fit", json=body).status_code == 202
    rows = [{k.replace("code", "poems"): v for k, v in row.items()} for row in observation_rows]
    other = client.post("/mixtures/fit", json={**body, "observations": rows})
    assert (other.status_code, slug(other)) == (422, "invalid-mixture")


def test_solving_again_makes_a_new_mixture_that_obeys(
    client: TestClient, fitted: Callable[..., MixtureRecord]
) -> None:
    parent = fitted()
    answer = client.post("/mixtures/solve", json={"mixture_id": parent.id})
    assert answer.status_code == 201, answer.text
    free = answer.json()
    assert client.get(answer.headers["Location"]).json() == free
    assert free["parent_id"] == parent.id
    assert sum(free["proportions"].values()) == pytest.approx(1)
    bounded = client.post(
        "/mixtures/solve",
        json={"mixture_id": free["id"], "constraints": {"upper": {"code": 0.1}}},
    ).json()
    assert bounded["proportions"]["code"] <= 0.1 + 1e-12
    assert (
        bounded["report"]["solution"]["objective_nats"]
        > free["report"]["solution"]["objective_nats"]
    )
    assert set(bounded["report"]) >= {
        "objective", "constraints", "budget_tokens", "step", "tokens_per_step",
        "tokens_available", "predicted_nats", "solution",
    }  # fmt: skip


def test_solving_for_another_budget_looks_at_another_step(
    client: TestClient, fitted: Callable[..., MixtureRecord]
) -> None:
    body = {"mixture_id": fitted().id, "budget_tokens": 4096 * 500}
    report = client.post("/mixtures/solve", json=body).json()["report"]
    assert report["step"] == 500
    assert report["budget_tokens"] == 4096 * 500


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"budget_tokens": -1}, 422, "invalid-budget"),
        ({"budget_tokens": 10**12}, 422, "infeasible-constraints"),
        ({"constraints": {"lower": {"code": 0.8, "legal": 0.8}}}, 422, "infeasible-constraints"),
        ({"objective": {"weights": {"poems": 1}}}, 422, "invalid-mixture"),
        ({"mixture_id": "mix_none"}, 404, "unknown-mixture"),
    ],
)
def test_a_solve_that_cannot_succeed_is_refused(
    client: TestClient,
    fitted: Callable[..., MixtureRecord],
    change: dict[str, Any],
    status: int,
    expected: str,
) -> None:
    answer = client.post("/mixtures/solve", json={"mixture_id": fitted().id, **change})
    assert (answer.status_code, slug(answer)) == (status, expected), answer.text


def test_a_registered_mixture_covers_all_domains_and_has_no_fit(
    client: TestClient, corpus_id: str
) -> None:
    body = {"corpus_id": corpus_id, "proportions": {"legal": 0.25, "code": 0.75}}
    answer = client.post("/mixtures", json=body)
    assert answer.status_code == 201, answer.text
    found = client.get(answer.headers["Location"]).json()
    assert found["proportions"] == {"code": 0.75, "legal": 0.25, "talk": 0.0}
    again = client.post("/mixtures/solve", json={"mixture_id": found["id"]})
    assert (again.status_code, slug(again)) == (409, "not-ready")


@pytest.mark.parametrize(
    "proportions",
    [{"code": 0.5, "legal": 0.6}, {"code": 1.5, "legal": -0.5}, {"poems": 1.0}, {}],
)
def test_what_is_no_mixture_of_the_corpus_is_refused(
    client: TestClient, corpus_id: str, proportions: dict[str, float]
) -> None:
    answer = client.post("/mixtures", json={"corpus_id": corpus_id, "proportions": proportions})
    assert (answer.status_code, slug(answer)) == (422, "invalid-mixture"), answer.text


def test_mixtures_are_listed_newest_first_in_pages(client: TestClient, corpus_id: str) -> None:
    made = [
        client.post("/mixtures", json={"corpus_id": corpus_id, "proportions": {name: 1.0}})
        for name in ("code", "legal", "talk")
    ]
    ids = [answer.json()["id"] for answer in reversed(made)]
    first = client.get("/mixtures", params={"page_size": 2}).json()
    assert [mixture["id"] for mixture in first["mixtures"]] == ids[:2]
    query = {"page_size": 2, "page_token": first["next_page_token"]}
    rest = client.get("/mixtures", params=query).json()
    assert [mixture["id"] for mixture in rest["mixtures"]] == ids[2:]
    assert rest["next_page_token"] == ""
    assert client.get("/mixtures", params={"corpus_id": "corpus_none"}).json()["mixtures"] == []
