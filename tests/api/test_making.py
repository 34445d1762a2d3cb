"""What only checks, what waits for its job, what priorities and quotas do."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.jobs import watching
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobState, MixtureRecord, Scope

Rows = list[dict[str, Any]]


@pytest.fixture
def bodies(
    corpus_id: str, corpus_body: dict[str, Any], fitted: Callable[..., MixtureRecord],
    observation_rows: Rows,
) -> dict[str, Any]:  # fmt: skip
    """A request of each kind that succeeds."""
    shares = {"corpus_id": corpus_id, "proportions": {"code": 0.5, "legal": 0.5}}
    return {
        "/corpora": corpus_body,
        f"/corpora/{corpus_id}/entropy": None,
        "/mixtures": shares,
        "/mixtures/fit": {"observations": observation_rows, "budget_tokens": 10**9},
        "/mixtures/solve": {"mixture_id": fitted().id},
        "/trainings": {**shares, "priority": 7},
    }


def counts(ledger: Ledger) -> tuple[int, int, int]:
    return len(ledger.jobs()), len(ledger.corpora()), len(ledger.mixtures())


def test_what_is_only_checked_is_not_recorded(
    client: TestClient, ledger: Ledger, bodies: dict[str, Any]
) -> None:
    before = counts(ledger)
    found = {}
    for path, body in bodies.items():
        key = {"Idempotency-Key": "unused", "Prefer": "wait=5"}
        answer = client.post(path, params={"validate_only": "true"}, json=body, headers=key)
        assert answer.status_code == 200, answer.text
        assert "Location" not in answer.headers
        assert answer.json()["valid"] is True
        found[path.rpartition("/")[2]] = answer.json()["found"]
    assert counts(ledger) == before
    # What would be recorded: defaults filled in, domains completed, a table told by its size.
    rows = len(bodies["/mixtures/fit"]["observations"])
    assert found["fit"]["payload"]["observations"] == {"rows": rows}
    assert found["fit"]["payload"]["tokens_per_step"] == 4096
    assert found["trainings"]["priority"] == 7
    assert found["trainings"]["payload"]["mixture"] == {"code": 0.5, "legal": 0.5, "talk": 0.0}
    assert sum(found["solve"]["proportions"].values()) == pytest.approx(1)
    assert found["corpora"]["spec"]["vocabulary"] == 2048
    # The key was not used up.
    assert client.post("/corpora", json=bodies["/corpora"], headers=key).status_code == 201


def test_what_would_be_refused_is_refused_when_checked(
    client: TestClient, corpus_id: str, corpus_body: dict[str, Any]
) -> None:
    wrong = {"corpus_id": corpus_id, "budget_tokens": -5}
    answer = client.post("/mixtures/fit?validate_only=true", json=wrong)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:mixlab:error:invalid-budget")
    assert client.post("/corpora/corpus_none/entropy?validate_only=true").status_code == 404
    elsewhere = {"name": "n", "domains": {d: {"paths": ["/etc/passwd"]} for d in "ab"}}
    assert client.post("/corpora?validate_only=true", json=elsewhere).status_code == 403


def test_validate_only_is_true_or_false(client: TestClient, corpus_id: str) -> None:
    for word in ("yes", "1", "TRUE", "", "on", "t", "null"):
        answer = client.post(f"/corpora/{corpus_id}/entropy", params={"validate_only": word})
        assert answer.status_code == 422, word
    assert client.post(f"/corpora/{corpus_id}/entropy?validate_only=false").status_code == 202


def worker(ledger: Ledger, seconds: float) -> threading.Timer:
    """Does the newest job, a while from now."""

    def work() -> None:
        job = ledger.jobs()[0]
        ledger.claim(job.id, "w", 60)
        ledger.succeed(job.id, 1, {"href": "/mixtures/mix_1"})

    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def test_a_post_that_waits_gets_the_ended_job(
    client: TestClient, ledger: Ledger, corpus_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TICK_SECONDS", 0.05)
    worker(ledger, 0.5)
    began = time.monotonic()
    key = {"Prefer": "wait=20", "Idempotency-Key": "k"}
    answer = client.post(f"/corpora/{corpus_id}/entropy", headers=key)
    assert time.monotonic() - began < 10
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
    assert "Retry-After" not in answer.headers
    # Again: the first answer was its 202, and the job is over by now.
    again = client.post(f"/corpora/{corpus_id}/entropy", headers=key)
    assert (again.status_code, again.json()) == (200, answer.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    plain = client.post(f"/corpora/{corpus_id}/entropy", headers={"Idempotency-Key": "k"})
    assert (plain.status_code, plain.json()["state"]) == (202, "queued")


def test_a_post_that_waits_in_vain_gets_a_202(client: TestClient, corpus_id: str) -> None:
    answer = client.post(f"/corpora/{corpus_id}/entropy", headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.headers["Retry-After"]
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_a_wait_changes_no_refusal(client: TestClient) -> None:
    began = time.monotonic()
    answer = client.post("/corpora/corpus_none/entropy", headers={"Prefer": "wait=20"})
    assert (answer.status_code, time.monotonic() - began < 5) == (404, True)


def test_priorities_reach_the_ledger_within_their_bounds(
    client: TestClient, ledger: Ledger, bodies: dict[str, Any], corpus_id: str
) -> None:
    training = bodies["/trainings"]
    for priority in (-100, 0, 100):
        answer = client.post("/trainings", json={**training, "priority": priority})
        assert answer.json()["priority"] == ledger.jobs()[0].priority == priority
        answer = client.post(f"/corpora/{corpus_id}/entropy?priority={priority}")
        assert answer.json()["priority"] == ledger.jobs()[0].priority == priority
    for wrong in (-101, 101, 1.5, "high", None, True, 10**30):
        answer = client.post("/trainings", json={**training, "priority": wrong})
        assert answer.status_code == 422, wrong
        answer = client.post(f"/corpora/{corpus_id}/entropy", params={"priority": str(wrong)})
        assert answer.status_code == 422, wrong


def test_a_quota_says_when_to_come_back(
    client: TestClient, ledger: Ledger, bodies: dict[str, Any]
) -> None:
    _, token = ledger.keys.create("ann", (Scope.ADMIN,), max_active_jobs=1)
    here = {"Authorization": f"Bearer {token}", "Idempotency-Key": "first"}
    assert client.post("/trainings", json=bodies["/trainings"], headers=here).status_code == 202
    other = here | {"Idempotency-Key": "second"}
    refused = client.post("/trainings", json=bodies["/trainings"], headers=other)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"]
    assert refused.json()["type"] == "urn:mixlab:error:quota-exceeded"
    ledger.request_cancel(ledger.jobs(JobState.QUEUED)[0].id)
    # The refusal was not kept: the very same request is made now.
    assert client.post("/trainings", json=bodies["/trainings"], headers=other).status_code == 202
