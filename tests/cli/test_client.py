import threading
from typing import Any

import httpx
import pytest

from cli.client import Client, ServiceError
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue


def test_a_problem_is_raised_with_its_words(service: str) -> None:
    with Client(service + "/") as client, pytest.raises(ServiceError) as caught:
        client.get("/corpora/corpus_none")
    assert caught.value.status == 404
    assert caught.value.slug == "unknown-corpus"
    assert "corpus_none" in str(caught.value)


def test_query_parameters_that_are_none_are_left_out(service: str) -> None:
    with Client(service) as client:
        assert client.get("/jobs", state=None, page_size=1)["next_page_token"] == ""


def test_a_query_in_the_path_is_kept(service: str) -> None:
    with Client(service) as client, pytest.raises(ServiceError) as caught:
        client.get("/jobs?state=sleeping")
    assert caught.value.status == 422


def test_no_service_is_told_with_the_way_out() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(ServiceError, match="mixlab up"):
        client.get("/livez")


def test_another_server_is_recognised() -> None:
    html = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    with Client("http://x", transport=html) as client, pytest.raises(ServiceError, match="JSON"):
        client.get("/livez")
    teapot = httpx.MockTransport(lambda request: httpx.Response(418, text="<html>"))
    with Client("http://x", transport=teapot) as client, pytest.raises(ServiceError, match="418"):
        client.get("/livez")


def test_waiting_ends_with_the_job(service: str, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.claim(job.id, "worker-1", 60)
    seen: list[dict[str, Any]] = []
    end = threading.Timer(0.3, lambda: ledger.succeed(job.id, 1, {"href": f"/jobs/{job.id}"}))
    end.start()
    with Client(service) as client:
        made = client.result(job.id, lambda now: seen.append(dict(now)))
    end.join()
    assert (seen[0]["state"], seen[-1]["state"]) == ("running", "succeeded")
    assert made["id"] == job.id


def test_a_job_that_failed_says_why(service: str, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.claim(job.id, "worker-1", 60)
    ledger.fail(job.id, 1, {"type": "diverged", "title": "t", "detail": "loss is NaN at step 3"})
    with Client(service) as client, pytest.raises(ServiceError, match="NaN at step 3") as caught:
        client.result(job.id)
    assert caught.value.slug == "diverged"


def test_a_state_that_it_does_not_know_is_not_the_end() -> None:
    answers = iter(["hibernating", "succeeded"])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"state": next(answers)}, headers={"Retry-After": "0"})

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.wait("job_1")["state"] == "succeeded"
