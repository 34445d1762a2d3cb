import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, JobState, Queue


def test_a_registered_corpus_can_be_read_where_it_says(
    client: TestClient, corpus_body: dict[str, Any]
) -> None:
    made = client.post("/corpora", json=corpus_body)
    assert made.status_code == 201
    found = client.get(made.headers["Location"]).json()
    assert found == made.json()
    assert list(found["spec"]["domains"]) == ["code", "legal", "talk"]
    assert found["spec"]["domains"]["code"]["text_field"] == "text"
    assert found["tokens"] is None
    assert client.get("/corpora").json()["corpora"] == [found]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_domains_are_no_corpus(
    client: TestClient, corpus_body: dict[str, Any], count: int
) -> None:
    corpus_body["domains"] = dict(list(corpus_body["domains"].items())[:count])
    answer = client.post("/corpora", json=corpus_body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:mixlab:error:invalid-corpus"
    assert "at least two domains" in answer.json()["detail"]


def refusal(client: TestClient, body: dict[str, Any], path: str) -> tuple[int, str]:
    body["domains"]["code"]["paths"] = [path]
    answer = client.post("/corpora", json=body)
    return answer.status_code, answer.json()["type"].removeprefix("urn:mixlab:error:")


def test_paths_are_looked_at_before_anything_is_recorded(
    client: TestClient, corpus_body: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.jsonl").write_text("{}")
    (data / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    os.mkfifo(data / "fifo")
    assert refusal(client, corpus_body, str(data / "none.jsonl")) == (422, "missing-file")
    for path in (
        str(tmp_path / "outside.jsonl"),
        f"{data}/../outside.jsonl",
        str(data / "link.jsonl"),
        str(data / "fifo"),
        "code.jsonl",
        f"{data}/%2e%2e/outside.jsonl",
        f"{data}\\..\\outside.jsonl",
        "s3://bucket/text.jsonl",
        "http://169.254.169.254/latest",
        "/dev/zero",
        "/etc/passwd\x00.jsonl",
    ):
        assert refusal(client, corpus_body, path) == (403, "path-not-allowed"), path
    assert client.get("/corpora").json()["corpora"] == []


def test_a_tokenizer_file_is_a_path_too(
    client: TestClient, corpus_body: dict[str, Any], data: Path
) -> None:
    folder = str(data)
    for path in ("/etc/passwd", f"{folder}/../x.json", folder, "s3://bucket/tokenizer.json"):
        answer = client.post("/corpora", json={**corpus_body, "tokenizer_file": path})
        assert answer.status_code == 403, path
    answer = client.post("/corpora", json={**corpus_body, "tokenizer_file": f"{folder}/none.json"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("vocabulary", 10),
        ("vocabulary", True),
        ("validation_fraction", 0),
        ("validation_fraction", 0.9),
        ("seed", -1),
        ("name", ""),
        ("name", " x"),
        ("name", "a\nb"),
        ("unheard_of", 1),
    ],
)
def test_options_out_of_range_are_named(
    client: TestClient, corpus_body: dict[str, Any], option: str, value: Any
) -> None:
    answer = client.post("/corpora", json={**corpus_body, option: value})
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == [f"/{option}"]


def test_measuring_is_a_job_on_the_cpu_queue(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    answer = client.post(f"/corpora/{corpus_id}/entropy")
    assert answer.status_code == 202
    job = ledger.job(answer.json()["id"])
    assert answer.headers["Location"] == f"/jobs/{job.id}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert (job.kind, job.queue, job.state) == (
        JobKind.MEASURE_CORPUS,
        Queue.CPU,
        JobState.QUEUED,
    )
    assert job.payload == {"corpus_id": corpus_id}


def test_an_unknown_corpus_makes_no_job(client: TestClient) -> None:
    assert client.post("/corpora/corpus_none/entropy").status_code == 404
    assert client.get("/jobs").json()["jobs"] == []


def test_lists_come_in_pages(client: TestClient, corpus_body: dict[str, Any]) -> None:
    for number in range(5):
        client.post("/corpora", json={**corpus_body, "name": f"c{number}"})
    names, token = [], ""
    while True:
        page = client.get("/corpora", params={"page_size": 2, "page_token": token}).json()
        names += [corpus["name"] for corpus in page["corpora"]]
        token = page["next_page_token"]
        if not token:
            break
    assert names == ["c4", "c3", "c2", "c1", "c0"]
