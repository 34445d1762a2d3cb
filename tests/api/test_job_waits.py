"""Long polls: answered when the job changes or ends, and no later than granted."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from api.app import create_app
from api.jobs import watching
from api.preferring import wait_preferred
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, Queue
from tests.api.served import HTTP, served, until


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    home = tmp_path_factory.mktemp("home")
    return create_app(Settings(home=home, broker_url="redis://127.0.0.1:1/0"))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    before, watching.TICK_SECONDS = watching.TICK_SECONDS, 0.05
    with served(app, app.state.settings) as running:
        yield running
    watching.TICK_SECONDS = before


@pytest.fixture
def ledger(app: FastAPI, url: str) -> Ledger:
    found: Ledger = app.state.resources.ledger()
    return found


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)


def timed(ask: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - began


def meanwhile(act: Callable[[], Any], seconds: float = 0.3) -> None:
    threading.Timer(seconds, act).start()


@pytest.mark.parametrize("how", [{"params": {"wait": "10"}}, {"headers": {"Prefer": "wait=10"}}])
def test_a_wait_ends_with_the_job_and_not_before(
    url: str, ledger: Ledger, job: Job, how: dict[str, Any]
) -> None:
    ledger.claim(job.id, "w", 60)
    ledger.progress(job.id, 1, stage="train", fraction=0.5)
    meanwhile(lambda: ledger.progress(job.id, 1, stage="train", fraction=0.6), 0.2)
    meanwhile(lambda: ledger.succeed(job.id, 1, {}), 0.6)
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}", **how))
    assert answer.json()["state"] == "succeeded"
    assert answer.headers["Preference-Applied"] == "wait=10"
    assert 0.5 < seconds < 5


def test_with_an_etag_a_wait_ends_with_any_change(url: str, ledger: Ledger, job: Job) -> None:
    tag = HTTP.get(f"{url}/jobs/{job.id}").headers["ETag"]
    meanwhile(lambda: ledger.claim(job.id, "w", 60))
    known = {"If-None-Match": tag, "Prefer": "wait=10"}
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}", headers=known))
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert answer.headers["ETag"] != tag
    assert 0.2 < seconds < 5
    old = {"If-None-Match": 'W/"0", "other"', "Prefer": "wait=10"}
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}", headers=old))
    assert (answer.status_code, seconds < 2) == (200, True), "what it knows is old already"


def test_a_wait_that_is_over_tells_how_it_stands(url: str, job: Job) -> None:
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}?wait=1"))
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert answer.headers["Retry-After"]
    assert 0.9 < seconds < 3
    known = {"If-None-Match": answer.headers["ETag"], "Prefer": "wait=1"}
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}", headers=known))
    assert (answer.status_code, answer.content) == (304, b"")
    assert 0.9 < seconds < 3


def test_an_ended_job_keeps_nobody_waiting(url: str, ledger: Ledger, job: Job) -> None:
    ledger.request_cancel(job.id)
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}?wait=60"))
    assert (answer.status_code, seconds < 2) == (200, True)
    known = {"If-None-Match": answer.headers["ETag"]}
    answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}?wait=60", headers=known))
    assert (answer.status_code, seconds < 2) == (304, True)


def test_what_cannot_be_a_wait_is_refused_in_a_query_and_passed_over_in_prefer(
    url: str, job: Job
) -> None:
    for wait in ("-1", "x", "1.5", "9" * 30, "0x1", ""):
        assert HTTP.get(f"{url}/jobs/{job.id}", params={"wait": wait}).status_code == 422, wait
    for prefer in (
        "wait=-1",
        "wait=x",
        "wait",
        "wait=1.5",
        "respond-async",
        "",
        "wait=" + "9" * 30,
    ):
        headers = {"Prefer": prefer}
        answer, seconds = timed(lambda: HTTP.get(f"{url}/jobs/{job.id}", headers=headers))  # noqa: B023
        assert (answer.status_code, seconds < 2) == (200, True), prefer
        assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize(
    ("prefer", "granted"),
    [
        (["wait=10"], 10), (["respond-async, wait=10"], 10), (["a", "WAIT = 7 ; x=y"], 7),
        (['wait="5"'], 5), (["wait=3, wait=9"], 3), (["wait=999999999"], 60), (["wait=0"], 0),
        (["await=5"], None), (["wait=5x"], None), ([], None),
    ],
)  # fmt: skip
def test_preferences_are_read_as_the_rfc_has_them(
    app: FastAPI, prefer: list[str], granted: int | None
) -> None:
    assert wait_preferred(asking(app, *prefer)) == granted


def test_a_wait_ends_well_before_an_answer_would_be_cut_off(app: FastAPI) -> None:
    hasty = create_app(app.state.settings.model_copy(update={"answer_seconds": 9.0}))
    assert wait_preferred(asking(hasty, "wait=60")) == 6


def asking(app: FastAPI, *prefer: str) -> Request:
    headers = [(b"prefer", each.encode()) for each in prefer]
    return Request({"type": "http", "app": app, "headers": headers})


def test_a_client_that_goes_away_frees_its_place_at_once(url: str, app: FastAPI, job: Job) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        request = f"GET /jobs/{job.id}?wait=60 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        client.sendall(request.encode())
        until(lambda: app.state.watcher.taken == 1)
    left = time.monotonic()
    until(lambda: app.state.watcher.taken == 0)
    assert time.monotonic() - left < 1
    assert not app.state.watcher._waiting


def test_many_who_wait_for_one_job_are_told_together(url: str, ledger: Ledger, job: Job) -> None:
    answers: list[str] = []

    def wait() -> None:
        answer = HTTP.get(f"{url}/jobs/{job.id}?wait=20")
        answers.append(answer.json()["state"])

    waiting = [threading.Thread(target=wait) for _ in range(20)]
    for thread in waiting:
        thread.start()
    time.sleep(0.5)
    ledger.request_cancel(job.id)
    for thread in waiting:
        thread.join(10)
    assert answers == ["cancelled"] * 20
