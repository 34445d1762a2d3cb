"""Logs come by bytes, never cut a character in two, and never from elsewhere."""

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.jobs.logs import _up_to_a_character
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, Queue, Scope


@pytest.fixture
def job(ledger: Ledger) -> Job:
    found = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.claim(found.id, "w", 60)
    return found


@pytest.fixture
def log(settings: Settings, job: Job) -> Path:
    path = settings.log_file(job.id, 1)
    path.parent.mkdir(parents=True)
    return path


def page(client: TestClient, job: Job, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/jobs/{job.id}/logs", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_log_comes_in_pages_and_goes_on_as_it_grows(
    client: TestClient, ledger: Ledger, job: Job, log: Path
) -> None:
    log.write_text("one\n")
    first = page(client, job)
    assert first == {
        "job_id": job.id, "attempt": 1, "offset": 0, "next_offset": 4, "size_bytes": 4,
        "finished": False, "text": "one\n",
    }  # fmt: skip
    assert page(client, job, offset=4)["text"] == ""
    with log.open("a") as file:
        file.write("two\n")
    assert page(client, job, offset=4)["text"] == "two\n"
    ledger.succeed(job.id, 1, {})
    assert page(client, job, offset=8)["finished"] is True
    assert page(client, job, offset=10**15)["text"] == ""


@pytest.mark.parametrize("limit", [16, 17, 19, 64])
def test_characters_stay_whole_over_pages(
    client: TestClient, job: Job, log: Path, limit: int
) -> None:
    text = "aé€😀" * 50 + "x"
    log.write_text(text)
    found, offset = "", 0
    while (one := page(client, job, offset=offset, limit=limit))["text"]:
        assert one["next_offset"] - one["offset"] <= limit
        found, offset = found + one["text"], one["next_offset"]
    assert found == text


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40), st.integers(0, 200))
def test_a_cut_text_ends_with_its_last_whole_character(text: str, length: int) -> None:
    content = text.encode()[:length]
    kept = _up_to_a_character(content)
    assert text.startswith(kept.decode())
    assert len(content) - len(kept) < 4


@hypothesis_settings(max_examples=300)
@given(st.binary(min_size=16, max_size=40))
def test_any_bytes_move_on(content: bytes) -> None:
    kept = _up_to_a_character(content)
    assert content.startswith(kept)
    assert len(kept) >= len(content) - 3


def test_the_beginning_of_a_character_waits_for_its_rest_until_the_attempt_is_over(
    client: TestClient, ledger: Ledger, job: Job, log: Path
) -> None:
    log.write_bytes(b"ok " + "€".encode()[:2])
    assert (page(client, job)["text"], page(client, job)["next_offset"]) == ("ok ", 3)
    log.write_bytes(b"ok " + "€".encode())
    assert page(client, job, offset=3)["text"] == "€"
    log.write_bytes(b"ok \xff" + "€".encode()[:2])
    ledger.succeed(job.id, 1, {})
    whole = page(client, job)
    assert (whole["text"], whole["next_offset"]) == ("ok \ufffd\ufffd", 6)


def test_each_attempt_has_its_log(
    client: TestClient, ledger: Ledger, settings: Settings, job: Job, log: Path
) -> None:
    log.write_text("first")
    ledger.give_back(job.id, 1, "stopped", None)
    ledger.claim(job.id, "w", 60)
    settings.log_file(job.id, 2).write_text("second")
    assert page(client, job)["text"] == "second"
    first = page(client, job, attempt=1)
    assert (first["text"], first["finished"]) == ("first", True)


def test_a_job_that_nobody_took_up_has_an_empty_log(client: TestClient, ledger: Ledger) -> None:
    waiting = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    found = page(client, waiting)
    assert (found["attempt"], found["text"], found["finished"]) == (0, "", False)


def test_what_has_no_log_is_told(client: TestClient, job: Job) -> None:
    for path in (f"/jobs/{job.id}/logs", f"/jobs/{job.id}/logs?attempt=2", "/jobs/job_none/logs"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    for query in (
        "attempt=0", "attempt=-1", "attempt=9999999999", "attempt=..%2f1", "offset=-1", "offset=x",
        "offset=99999999999999999999", "limit=0", "limit=15",
    ):  # fmt: skip
        assert client.get(f"/jobs/{job.id}/logs?{query}").status_code == 422, query


def test_a_huge_page_is_cut_down(client: TestClient, job: Job, log: Path) -> None:
    log.write_bytes(b"x" * (3 * 2**20))
    assert len(page(client, job, limit=2**31 - 1)["text"]) == 2**20


def test_nothing_but_the_log_itself_is_read(
    client: TestClient, job: Job, log: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    log.symlink_to(secret)
    linked = client.get(f"/jobs/{job.id}/logs")
    assert (linked.status_code, "secret" in linked.text) == (404, False)
    log.unlink()
    os.mkfifo(log)  # whose reader would wait for a writer
    assert client.get(f"/jobs/{job.id}/logs").status_code == 404
    log.unlink()
    log.mkdir()
    assert client.get(f"/jobs/{job.id}/logs").status_code == 404
    log.rmdir()
    for place in ("..%2f..%2fsecret", "job_..%2fsecret", "%00", f"{job.id}%00"):
        assert client.get(f"/jobs/{place}/logs").status_code == 404


def test_logs_events_and_moves_are_of_ones_own_jobs_alone(
    client: TestClient, ledger: Ledger, settings: Settings
) -> None:
    keys = [ledger.keys.create(name, (Scope.READ, Scope.WRITE)) for name in ("ann", "bob")]
    anns = ledger.of(keys[0][0].id).submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.claim(anns.id, "w", 60)
    settings.log_file(anns.id, 1).parent.mkdir(parents=True)
    settings.log_file(anns.id, 1).write_text("ann's")
    for (_, token), status in zip(keys, (200, 404), strict=True):
        bearer = {"Authorization": f"Bearer {token}"}
        for path in ("", "/logs", "/events", "/children"):
            assert client.get(f"/jobs/{anns.id}{path}", headers=bearer).status_code == status
        listed = client.get("/jobs", headers=bearer).json()["jobs"]
        assert [one["owner"] for one in listed] == ([keys[0][0].id] if status == 200 else [])
    for move in ("pause", "resume", "cancel"):
        refused = client.post(f"/jobs/{anns.id}/{move}", headers=bearer)
        assert refused.status_code == 404
    assert ledger.job(anns.id).cancel_requested_at is None
