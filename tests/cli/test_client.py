import threading
from typing import Any

import httpx
import pytest

from cli.client import Client, ServiceError
from cli.errors import CommandFailed
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


def stream(*frames: str) -> httpx.Response:
    content = "".join(f"{frame}\n\n" for frame in frames)
    return httpx.Response(200, text=content, headers={"content-type": "text/event-stream"})


def job_frame(state: str) -> str:
    return f'event: job\ndata: {{"state": "{state}"}}'


def test_a_job_is_followed_through_its_stream_alone(service: str, ledger: Ledger) -> None:
    asked: list[str] = []
    real = httpx.HTTPTransport()

    def ask(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return real.handle_request(request)

    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    end = threading.Timer(0.3, lambda: ledger.request_cancel(job.id))
    end.start()
    with Client(service, transport=httpx.MockTransport(ask)) as client:
        assert client.wait(job.id)["state"] == "cancelled"
    end.join()
    assert asked == [f"/jobs/{job.id}/events"]


def test_a_stream_that_breaks_off_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = iter([stream(job_frame("running")), stream(job_frame("succeeded"))])
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return next(streams)
        return httpx.Response(200, json={"state": "running"}, headers={"Retry-After": "0"})

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.wait("job_1", lambda now: seen.append(now["state"]))["state"] == "succeeded"
    assert seen == ["running", "running", "succeeded"]


@pytest.mark.parametrize("refusal", [503, 406, 404, 500])
def test_where_there_is_no_stream_it_polls(refusal: int) -> None:
    states = iter(["queued", "running", "failed"])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(refusal, json={})
        return httpx.Response(200, json={"state": next(states)}, headers={"Retry-After": "0"})

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.wait("job_1")["state"] == "failed"


def test_a_service_that_is_restarted_meanwhile_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cli.client.time.sleep", lambda _seconds: None)
    answers = iter([None, None, None, {"state": "running"}, None, {"state": "succeeded"}])

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(answers)
        if found is None:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json=found)

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.wait("job_1")["state"] == "succeeded"


def test_a_busy_service_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("cli.client.time.sleep", slept.append)
    keys: list[str] = []
    statuses = iter([429, 503, 409, 202])

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        status = next(statuses)
        later = {"Retry-After": "7"} if status != 202 else {}
        return httpx.Response(status, json={"id": "job_1"}, headers=later)

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.post("/trainings", {}) == {"id": "job_1"}
    assert slept == [7, 7, 7]
    assert len(set(keys)) == 1, "all of them are the same request"


def test_a_refusal_without_a_time_is_told_at_once() -> None:
    busy = httpx.MockTransport(
        lambda request: httpx.Response(429, json={"detail": "enough", "type": "urn:x:quota"})
    )
    with Client("http://x", transport=busy) as client, pytest.raises(ServiceError, match="enough"):
        client.get("/jobs")


def test_an_api_key_goes_along_and_what_is_none_is_told() -> None:
    given = httpx.MockTransport(
        lambda request: httpx.Response(200, json={"given": request.headers.get("Authorization")})
    )
    with Client("http://x", api_key="mlk_1_2", transport=given) as client:
        assert client.get("/jobs") == {"given": "Bearer mlk_1_2"}
    with Client("http://x", api_key="", transport=given) as client:
        assert client.get("/jobs") == {"given": None}
    for wrong in ("mlk_1\n", "two words", "schlüssel", "\x00"):
        with pytest.raises(CommandFailed, match="mlk_"):
            Client("http://x", api_key=wrong, transport=given)


def test_events_are_told_to_the_end_once_each(service: str, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)

    def work() -> None:
        ledger.claim(job.id, "w", 60)
        for number in range(5):
            ledger.progress(job.id, 1, stage=f"stage {number}", fraction=0.1)
        ledger.succeed(job.id, 1, {})

    timer = threading.Timer(0.3, work)
    timer.start()
    with Client(service) as client:
        told = [event["seq"] for event in client.events(job.id, follow=True)]
        assert [event["seq"] for event in client.events(job.id)] == told
    timer.join()
    assert told == [event.seq for event in ledger.events(job.id)]
