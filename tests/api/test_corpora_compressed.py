"""Corpora that ask for another one's tokenizer, compressed: what is recorded, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mixlab.ledger import Ledger

SHARES = {"code": 0.25, "talk": 0.75}


@pytest.fixture
def measured(ledger: Ledger, corpus_id: str) -> str:
    counts = {name: {"train_tokens": 1000} for name in ("code", "legal", "talk")}
    ledger.record_tokens(corpus_id, counts)
    return corpus_id


@pytest.fixture
def body(corpus_body: dict[str, Any], measured: str) -> dict[str, Any]:
    asked = {"corpus_id": measured, "vocabulary": 300, "proportions": SHARES}
    return {**corpus_body, "compress": asked}


def test_what_was_asked_for_is_shown_with_the_mixture_over_all_domains(
    client: TestClient, body: dict[str, Any], measured: str
) -> None:
    answer = client.post("/corpora", json=body)
    assert answer.status_code == 201, answer.text
    spec = client.get(answer.headers["Location"]).json()["spec"]
    assert spec["compress"] == {
        "corpus_id": measured, "vocabulary": 300, "mixture_id": None,
        "proportions": {"code": 0.25, "legal": 0.0, "talk": 0.75},
    }  # fmt: skip
    assert (spec["vocabulary"], spec["tokenizer_file"]) == (300, None)


def test_a_mixture_is_named_by_its_id(
    client: TestClient, body: dict[str, Any], measured: str
) -> None:
    mixture = {"corpus_id": measured, "proportions": SHARES}
    mixture_id = client.post("/mixtures", json=mixture).json()["id"]
    body["compress"] = {"corpus_id": measured, "vocabulary": 300, "mixture_id": mixture_id}
    found = client.post("/corpora", json=body).json()["spec"]["compress"]
    assert found["mixture_id"] == mixture_id
    assert found["proportions"] == {"code": 0.25, "legal": 0.0, "talk": 0.75}


def test_a_corpus_of_its_own_tokenizer_shows_that_nothing_was_asked_for(
    client: TestClient, corpus_body: dict[str, Any]
) -> None:
    assert client.post("/corpora", json=corpus_body).json()["spec"]["compress"] is None


@pytest.mark.parametrize(
    ("more", "changes", "status", "kind", "says"),
    [
        ({"vocabulary": 300}, {}, 422, "invalid-corpus", "compress and vocabulary exclude"),
        ({"vocabulary": 2048}, {}, 422, "invalid-corpus", "compress and vocabulary exclude"),
        ({"tokenizer_file": "?"}, {}, 422, "invalid-corpus", "compress and tokenizer_file exclude"),
        (
            {"tokenizer_file": "?", "vocabulary": 300},
            {},
            422,
            "invalid-corpus",
            "compress, tokenizer_file and vocabulary exclude",
        ),
        ({}, {"corpus_id": "corpus_none"}, 404, "unknown-corpus", "corpus_none"),
        ({}, {"proportions": None}, 422, "invalid-mixture", "0 of them were given"),
        ({}, {"mixture_id": "mix_x"}, 422, "invalid-mixture", "2 of them were given"),
        ({}, {"mixture_id": "mix_x", "proportions": None}, 404, "unknown-mixture", "mix_x"),
        ({}, {"proportions": {"poems": 1.0}}, 422, "invalid-mixture", "'poems' is no domain"),
        ({}, {"proportions": {"code": 0.5}}, 422, "invalid-mixture", "sum to 1"),
        ({}, {"vocabulary": 256}, 422, "invalid-request", "257"),
        ({}, {"coverage": 0.9}, 422, "invalid-request", "coverage"),
    ],
)
def test_what_can_not_be_made_is_refused_and_nothing_recorded(
    client: TestClient, body: dict[str, Any], data: Path,
    more: dict[str, Any], changes: dict[str, Any], status: int, kind: str, says: str,
) -> None:  # fmt: skip
    before = len(client.get("/corpora").json()["corpora"])
    if "tokenizer_file" in more:
        more = {**more, "tokenizer_file": str(data / "code.jsonl")}
    asked = {**body["compress"], **changes}
    answer = client.post("/corpora", json={**body, **more, "compress": asked})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, kind)
    assert says in answer.text
    assert len(client.get("/corpora").json()["corpora"]) == before


def test_a_corpus_that_is_not_measured_has_no_tokenizer_yet(
    client: TestClient, corpus_body: dict[str, Any], corpus_id: str
) -> None:
    asked = {"corpus_id": corpus_id, "vocabulary": 300, "proportions": SHARES}
    answer = client.post("/corpora", json={**corpus_body, "compress": asked})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:mixlab:error:not-ready")
    assert f"POST /corpora/{corpus_id}/entropy first" in answer.json()["detail"]
