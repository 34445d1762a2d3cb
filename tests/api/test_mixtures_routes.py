from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mixlab.fitting import Fit
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, MixtureRecord, Queue
from mixlab.recipes import proxy_tiny
from mixlab.tables import from_rows, write_table
from tests.api.conftest import TRUTH

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
        "law": "auto",
        "replicates": 100,
        "budget_tokens": 1_000_000,
        "params": None,
        "objective": {
            "weights": {"code": 2, "legal": 1}, "kind": "mean", "reference_nats": None,
            "reference_mixture": None, "risk": None,
        },
        "constraints": {
            "lower": {"code": 0.2}, "upper": {}, "max_epochs": 4.0, "groups": {}, "linear": [],
            "near": None, "repetition": None, "trust": 1.0,
        },
        "design": {"count": 14, "floor": 0.03, "seed": 0, "repeated_seeds": 2},
        "tokens_available": None,
        "tokens_per_step": proxy_tiny().tokens_per_step,
    }  # fmt: skip


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
        ({"objective": {"kind": "best"}}, 422, "invalid-request"),
        ({"objective": {"kind": "excess"}}, 422, "invalid-request"),
        ({"objective": {"kind": "mean", "reference_nats": {"code": 1.0}}}, 422,
         "invalid-request"),
        ({"objective": {"kind": "excess", "reference_nats": {"poems": 1.0}}}, 422,
         "invalid-mixture"),
        ({"objective": {"kind": "excess", "reference_mixture": {"code": 0.5}}}, 422,
         "invalid-mixture"),
        ({"objective": {"kind": "excess", "reference_mixture": {"poems": 1.0}}}, 422,
         "invalid-mixture"),
        ({"objective": {"risk": 1.0}}, 422, "invalid-request"),
        ({"constraints": {"groups": {"text": {"domains": ["legal", "poems"]}}}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"groups": {"code": {"domains": ["legal"]}}}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"groups": {"text": {"domains": []}}}}, 422, "invalid-request"),
        ({"constraints": {"lower": {"code": 0.7},
                          "groups": {"text": {"domains": ["legal", "talk"], "lower": 0.5}}}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"linear": [{"coefficients": {"code": 1}, "lower": 0.9},
                                     {"coefficients": {"code": 1}, "upper": 0.1}]}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"linear": [{"coefficients": {"code": 1}}]}}, 422,
         "infeasible-constraints"),
        ({"constraints": {"near": {"mixture": {"code": 0.5}, "kl_nats": 0.1}}}, 422,
         "invalid-mixture"),
        ({"constraints": {"near": {"mixture": {"code": 1.0}, "kl_nats": 0}}}, 422,
         "invalid-request"),
        ({"constraints": {"repetition": {"r_star": -1}}}, 422, "invalid-request"),
        ({"replicates": -1}, 422, "invalid-request"),
        ({"params": 0}, 422, "invalid-request"),
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


def test_solved_shares_stay_where_runs_were_until_trust_is_lifted(
    client: TestClient, fitted: Callable[..., MixtureRecord], a_fit: Fit
) -> None:
    body = {"mixture_id": fitted().id, "objective": {"weights": {"code": 30, "legal": 1}}}

    def solved(**constraints: Any) -> dict[str, Any]:
        answer = client.post("/mixtures/solve", json={**body, "constraints": constraints})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    held, free = solved(), solved(trust=None)
    most = a_fit.shares_seen["code"][1]
    assert held["report"]["constraints"]["trust"] == 1
    assert held["proportions"]["code"] == pytest.approx(most)
    assert "the most that any run saw" in held["report"]["solution"]["statements"][0]
    assert free["proportions"]["code"] > most
    assert any("outside the shares" in note for note in free["report"]["solution"]["notes"])
    wider = solved(trust=1.1)["proportions"]["code"]
    assert most < wider <= free["proportions"]["code"]
    refused = client.post("/mixtures/solve", json={**body, "constraints": {"trust": 0.5}})
    assert refused.status_code == 422


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


def test_other_objectives_and_constraints_are_obeyed(
    client: TestClient, fitted: Callable[..., MixtureRecord]
) -> None:
    parent = fitted().id

    def shares(**change: Any) -> dict[str, float]:
        answer = client.post("/mixtures/solve", json={"mixture_id": parent, **change})
        assert answer.status_code == 201, answer.text
        found: dict[str, float] = answer.json()["proportions"]
        return found

    group = shares(constraints={"groups": {"text": {"domains": ["legal", "talk"], "upper": 0.3}}})
    assert group["legal"] + group["talk"] == pytest.approx(0.3, abs=1e-6)
    linear = {"coefficients": {"code": 1, "talk": -2}, "lower": 0.2, "name": "code enough"}
    summed = shares(constraints={"linear": [linear]})
    assert summed["code"] - 2 * summed["talk"] >= 0.2 - 1e-6
    near = {"mixture": {"code": 0.8, "legal": 0.1, "talk": 0.1}, "kl_nats": 0.01}
    assert shares(constraints={"near": near})["code"] == pytest.approx(0.8, abs=0.1)
    reference = {"code": 0.7, "legal": 0.2, "talk": 0.1}
    excess = shares(objective={"kind": "excess", "reference_mixture": reference})
    assert excess["code"] > shares()["code"]


def test_a_solution_says_what_constraints_cost_and_how_sure_it_is(
    client: TestClient, fitted: Callable[..., MixtureRecord]
) -> None:
    body = {"mixture_id": fitted().id, "constraints": {"upper": {"talk": 0.2}}}
    report = client.post("/mixtures/solve", json=body).json()["report"]
    assert any("talk" in words for words in report["solution"]["statements"])
    assert report["solution"]["gap_nats"] <= 1e-6
    assert report["regret"] is None  # the fit has no bootstrap
    for name, nats in report["solution"]["predicted_nats"].items():
        one = report["predictions"][name]
        assert one["low95"] <= nats <= one["high95"]


def test_a_run_is_predicted_with_intervals_by_the_names_of_its_domains(
    client: TestClient, fitted: Callable[..., MixtureRecord]
) -> None:
    body = {"mixture_id": fitted().id, "proportions": {"talk": 0.25, "code": 0.5, "legal": 0.25}}
    answer = client.post("/mixtures/predict", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["step"], found["step_unit"]) == (10_000, "steps")  # the mixture's own budget
    assert any("outside those observed" in note for note in found["notes"])
    for name, (scale, alpha, beta, floor) in TRUTH.items():
        share = body["proportions"][name]
        truth = share**-alpha * (scale * 10_000.0**-beta + floor)
        one = found["predictions"][name]
        assert one["nats"] == pytest.approx(truth, rel=1e-3)
        assert one["low95"] <= truth <= one["high95"]
    shorter = client.post("/mixtures/predict", json={**body, "budget_tokens": 4096 * 500}).json()
    assert shorter["step"] == 500
    assert shorter["notes"] == []
    assert client.post("/mixtures/predict", json={**body, "step": 500.0}).json() == shorter
    own = client.post("/mixtures/predict", json={"mixture_id": body["mixture_id"]}).json()
    assert own["proportions"] == pytest.approx(dict.fromkeys(TRUTH, 1 / 3))


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"mixture_id": "mix_none"}, 404, "unknown-mixture"),
        ({"proportions": {"code": 0.5}}, 422, "invalid-mixture"),
        ({"proportions": {"code": 0.5, "poems": 0.5}}, 422, "invalid-mixture"),
        ({"budget_tokens": 0}, 422, "invalid-budget"),
        ({"step": 0.0}, 422, "invalid-request"),
        ({"step": 5.0, "budget_tokens": 5}, 422, "invalid-request"),
        ({"params": -1.0}, 422, "invalid-request"),
    ],
)
def test_a_prediction_that_cannot_be_is_refused(
    client: TestClient, fitted: Callable[..., MixtureRecord], change: dict[str, Any], status: int,
    expected: str,
) -> None:  # fmt: skip
    answer = client.post("/mixtures/predict", json={"mixture_id": fitted().id, **change})
    assert (answer.status_code, slug(answer)) == (status, expected), answer.text


def test_a_target_whose_law_says_nothing_of_no_share_is_left_out(
    client: TestClient, fitted: Callable[..., MixtureRecord]
) -> None:
    body = {"mixture_id": fitted().id, "proportions": {"code": 0.5, "legal": 0.5}, "step": 500.0}
    found = client.post("/mixtures/predict", json=body).json()
    assert set(found["predictions"]) == {"code", "legal"}
    assert any("talk" in note for note in found["notes"])


def test_first_runs_fill_what_is_allowed(client: TestClient, corpus_id: str) -> None:
    body = {"count": 6, "constraints": {"lower": {"code": 0.2}, "upper": {"talk": 0.4}}}
    for subject in ({"corpus_id": corpus_id}, {"domains": ["code", "legal", "talk"]}):
        answer = client.post("/mixtures/design", json={**subject, **body})
        assert answer.status_code == 200, answer.text
        found = answer.json()["mixtures"]
        assert len(found) == 6
        for shares in found.values():
            assert sum(shares.values()) == pytest.approx(1)
            assert shares["code"] >= 0.2 - 1e-9
            assert shares["talk"] <= 0.4 + 1e-9


def test_next_runs_are_proposed_from_a_fits_own_observations(
    client: TestClient, fitted: Callable[..., MixtureRecord], observation_rows: Rows, tmp_path: Path
) -> None:
    seen = tmp_path / "home" / "seen.parquet"
    write_table(from_rows(observation_rows), seen)
    record = fitted(observations_file=str(seen))
    body = {"mixture_id": record.id, "count": 2, "constraints": {"upper": {"code": 0.5}}}
    answer = client.post("/mixtures/design", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert len(found["mixtures"]) == 2
    assert all(shares["code"] <= 0.5 + 1e-9 for shares in found["mixtures"].values())
    assert found["step"] == 800
    assert 0 <= found["expected_regret_after_nats"] <= found["expected_regret_nats"]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({}, 422, "invalid-request"),
        ({"corpus_id": "corpus_none", "domains": ["a", "b"]}, 422, "invalid-request"),
        ({"corpus_id": "corpus_none"}, 404, "unknown-corpus"),
        ({"mixture_id": "mix_none"}, 404, "unknown-mixture"),
        ({"domains": ["a"]}, 422, "invalid-request"),
        ({"domains": ["a", "a"]}, 422, "invalid-mixture"),
        ({"domains": ["a", "b"], "count": 0}, 422, "invalid-request"),
        ({"domains": ["a", "b"], "constraints": {"lower": {"a": 0.7, "b": 0.7}}}, 422,
         "infeasible-constraints"),
        ({"mixture_id": "FITTED"}, 409, "not-ready"),
    ],
)  # fmt: skip
def test_a_design_that_cannot_be_is_refused(
    client: TestClient, fitted: Callable[..., MixtureRecord], body: dict[str, Any], status: int,
    expected: str,
) -> None:  # fmt: skip
    if body.get("mixture_id") == "FITTED":
        body = {"mixture_id": fitted().id}
    answer = client.post("/mixtures/design", json=body)
    assert (answer.status_code, slug(answer)) == (status, expected), answer.text


def test_observations_of_several_sizes_need_the_runs_size(
    client: TestClient, observation_rows: Rows
) -> None:
    rows = [{**row, "params": 10**6 * (1 + at % 2)} for at, row in enumerate(observation_rows)]
    body = {"observations": rows, "budget_tokens": 10**9}
    without = client.post("/mixtures/fit", json=body)
    assert (without.status_code, slug(without)) == (422, "invalid-budget")
    assert "params" in without.json()["detail"]
    assert client.post("/mixtures/fit", json={**body, "params": 1e8}).status_code == 202


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
